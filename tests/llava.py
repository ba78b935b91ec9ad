"""A tiny random LLaVA, made by the tests: CLIP tower, Llama decoder, own byte-level BPE."""

from pathlib import Path
from typing import Any

import checkpoints

IMAGE = "<image>"
GRIDS = ((32, 64), (64, 32), (64, 64), (96, 32))
"""Heights and widths."""
TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content %}
{%- if part.type == "image" %}<image>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def make_llava(folder: Path, *, tiled: bool = False, **sizes: Any) -> Path:
    """A LLaVA-shaped checkpoint of about 175,000 parameters; images of 32 pixels, 16 tokens each,
    or `tiled` as LLaVA-NeXT reads them.

    It is drawn with large weights, so that its answers depend on what it is shown.
    """
    import torch
    from tokenizers import AddedToken
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    tokens = checkpoints.tokenizer()
    tokens.add_tokens([AddedToken(IMAGE, special=True)], special_tokens=True)
    tokens.chat_template = TEMPLATE
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=32,
    )
    text = LlamaConfig(
        vocab_size=len(tokens),
        bos_token_id=None,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        tie_word_embeddings=False,
        **(checkpoints.SIZES | sizes),
    )
    more: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": tokens.convert_tokens_to_ids(IMAGE),
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_seq_length": 16,
    }
    network: Any
    if tiled:
        network = LlavaNextForConditionalGeneration(
            LlavaNextConfig(**more, image_grid_pinpoints=[list(grid) for grid in GRIDS])
        )
    else:
        network = LlavaForConditionalGeneration(LlavaConfig(**more))
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.5 / parameter.shape[-1] ** 0.5)
    network.generation_config.eos_token_id = tokens.eos_token_id
    network.generation_config.pad_token_id = tokens.pad_token_id
    network.eval().save_pretrained(folder)
    edges = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    if tiled:
        tokens.save_pretrained(folder)
        grids = [list(grid) for grid in GRIDS]
        LlavaNextImageProcessorPil(**edges, image_grid_pinpoints=grids).save_pretrained(folder)
        return folder
    LlavaProcessor(
        image_processor=CLIPImageProcessor(**edges),
        tokenizer=tokens,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token=IMAGE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


def make_clip(folder: Path) -> Path:
    """A CLIP of about 60,000 parameters: images of 32 pixels, texts of up to 32 tokens."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokens = checkpoints.tokenizer()
    begin, end = "<|im_start|>", "<|im_end|>"
    tokens.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, 1), (end, 2)]
    )
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        text_config={
            **sizes,
            "vocab_size": len(tokens),
            "max_position_embeddings": 32,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    network = CLIPModel(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.0 / parameter.shape[-1] ** 0.5)
            if name == "logit_scale":
                parameter.fill_(2.0)
    network.eval().save_pretrained(folder)
    tokens.save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def make_siglip(folder: Path) -> Path:
    """A SigLIP of about 60,000 parameters: images of 32 pixels, texts of 32 tokens."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    tokens = checkpoints.tokenizer()
    tokens.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|im_end|>", special_tokens=[("<|im_end|>", 2)]
    )
    tokens.pad_token = "<|im_start|>"
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {"vocab_size": len(tokens), "max_position_embeddings": 32, "projection_size": 32}
    network = SiglipModel(
        SiglipConfig(
            text_config=sizes | text, vision_config=sizes | {"image_size": 32, "patch_size": 8}
        )
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.0 / parameter.shape[-1] ** 0.5)
        network.logit_scale.fill_(1.0)
        network.logit_bias.fill_(-0.5)
    network.eval().save_pretrained(folder)
    tokens.save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
