"""Language models that are shown images: from a checkpoint to what the engine serves.

LLaVA-shaped: a vision tower whose rows stand for tokens of the prompt, and a decoder. The decoder
is compared with the source as other language models are, with images in its prompts, too. Only the
compiled form is served.
"""

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from PIL import Image

from lmaas.errors import LMaaSError, ModelRefused
from lmaas.frameworks import causal, checkpoint, vision_graphs
from lmaas.frameworks.causal_sample import Pictured, write_sample
from lmaas.frameworks.image_processor import (
    CONNECT,
    PREPROCESSOR,
    TILED,
    load_processor,
    shape_of,
)
from lmaas.generation_types import ChatMessage, FilePart, TextPart
from lmaas.runtime import ov
from lmaas.runtime.language import parity, tiles
from lmaas.runtime.language.pictures import NEWLINE
from lmaas.runtime.language.proof import prove
from lmaas.runtime.language.template import PROBE, Template
from lmaas.types import LanguageSpec, Lineage, Manifest, PushOptions, Signature, VisionSpec

TASK: Final = "image-text-to-text"
FAMILIES: Final = ("llava", "llava_next")
"""Values of `model_type` that are served: rows of images, in the order of the tower's cells."""
SEED: Final = 0


def build(folder: Path, options: PushOptions, target: Path) -> Manifest:
    """A package in `target` of the checkpoint in `folder`. Raises ModelRefused.

    A model whose compiled form does not give the source's answers is refused: no other engine here
    takes images.
    """
    import torch
    from safetensors.numpy import save_file
    from transformers import AutoModelForImageTextToText

    raw = checkpoint.read_config(folder)
    if raw.get("model_type") not in FAMILIES:
        raise ModelRefused(
            f"Models of the type {str(raw.get('model_type'))[:100]!r} that take images are not "
            f"served here; served are {', '.join(FAMILIES)}.",
            hint=CONNECT,
        )
    tokenizer = checkpoint.load_tokenizer(folder)
    model = checkpoint.load_model(AutoModelForImageTextToText, folder, torch.float32)
    vocabulary = causal.check_vocabulary(model, tokenizer)
    processor = load_processor(folder)
    vision = vision_spec(model, processor, vocabulary)
    template = check_template(folder, tokenizer, vision.token_id)
    config = model.config.get_text_config()
    length = causal.context_length(config)
    stops = causal.stop_ids(model, tokenizer, vocabulary)
    sample = target / "sample.safetensors"
    write_sample(
        model,
        vocabulary,
        length,
        sample,
        without=vision.token_id,
        pictured=pictured(processor, vision, vocabulary, length),
    )
    spec = LanguageSpec(
        architecture=checkpoint.architecture_of(raw),
        context_length=length,
        vocabulary_size=vocabulary,
        stop_token_ids=stops,
        chat_template=True,
        reasoning="<think>" in template or "<think>" in tokenizer.get_vocab(),
        tools="tools" in template,
        accepts=("text", "image"),
        vision=vision,
    )
    recipe = {"context": told} if (told := causal.shortened(config)) else {}
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    newline = model.model.image_newline.detach().float().numpy() if vision.grids else None
    del model
    compiled = target / "compiled"
    dtype = causal.stored_dtype(folder)
    export(checkpoint.load_model(AutoModelForImageTextToText, folder, dtype), compiled)
    if vision.grids:
        save_file({"row": newline}, compiled / NEWLINE)
    causal.export_tokenizer(tokenizer, compiled)
    (compiled / PREPROCESSOR).write_text(processor.to_json_string(), "utf-8")
    kv_bytes = causal.kv_bytes_per_token(compiled / vision_graphs.LANGUAGE)
    spec = msgspec.structs.replace(spec, kv_bytes_per_token=kv_bytes)
    try:
        problem = parity.problem_of(prove(compiled, sample, spec, "openvino-genai", target))
    except LMaaSError as error:
        problem = error.message
    if problem:
        raise ModelRefused(
            f"The compiled {spec.architecture} gives other answers than its source: {problem}",
            hint=CONNECT,
        )
    manifest = Manifest(
        name=options.name,
        task=TASK,
        framework="pytorch",
        signature=Signature(inputs=(), outputs=(), language=spec),
        num_parameters=num_parameters,
        framework_version=str(torch.__version__),
        lineage=Lineage(origin="push", recipe=recipe),
        card=options.card,
    )
    (target / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def vision_spec(model: Any, processor: Any, vocabulary: int) -> VisionSpec:
    """How this model takes images. Raises ModelRefused for settings that are not honoured."""
    token = int(model.config.image_token_id)
    if not 0 <= token < vocabulary:
        raise ModelRefused(f"The image token {token} is outside the vocabulary of {vocabulary}.")
    spec = VisionSpec(
        token_id=token,
        tokens=1,
        numbers=int(model.get_input_embeddings().weight.shape[1]),
        **shape_of(processor)._asdict(),
    )
    if hasattr(processor, TILED) != (model.config.model_type == "llava_next"):
        raise ModelRefused(
            f"A {model.config.model_type} and a {type(processor).__name__} do not fit each other."
        )
    if hasattr(processor, TILED):
        return _tiled(model, processor, spec)
    return msgspec.structs.replace(spec, tokens=_tokens(model, spec))


def _tiled(model: Any, processor: Any, spec: VisionSpec) -> VisionSpec:
    """How images become tiles. Raises ModelRefused where model and processor contradict."""
    config = model.config
    tower = config.vision_config
    grids = tuple((int(wide), int(high)) for high, wide in getattr(processor, TILED))
    told = tuple((int(wide), int(high)) for high, wide in config.image_grid_pinpoints)
    square = (tower.image_size,) * 3
    if (spec.height, spec.width, spec.short_side) != square or grids != told or not grids:
        raise ModelRefused(
            f"The image processor makes tiles of {spec.width} x {spec.height} pixels and grids "
            f"{grids}; the model reads {tower.image_size} and {told}."
        )
    if config.vision_feature_select_strategy != "default":
        raise ModelRefused(
            f"vision_feature_select_strategy {config.vision_feature_select_strategy!a} is not "
            "supported for tiles; default is."
        )
    side = int(tower.image_size // tower.patch_size)
    return msgspec.structs.replace(
        spec, tokens=side**2, side=side, grids=grids, resize="stretch", short_side=0
    )


def _tokens(model: Any, spec: VisionSpec) -> int:
    """How many rows the source gives for an image."""
    import torch

    pixels = torch.zeros(1, 3, spec.height, spec.width)
    try:
        with torch.inference_mode():
            told = model.get_image_features(pixel_values=pixels)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a config that lies fails in any way it likes
        raise ModelRefused(
            f"The vision tower does not read {spec.width} x {spec.height} pixels: "
            f"{checkpoint.short(error)}."
        ) from None
    rows = getattr(told, "pooler_output", told)
    rows = rows[0]
    return int(rows.reshape(-1, rows.shape[-1]).shape[0])


def check_template(folder: Path, tokenizer: Any, token: int) -> str:
    """The chat template's source. Raises ModelRefused unless it shows texts and images."""
    template = Template.load(folder)
    if template is None:
        raise ModelRefused(
            "The checkpoint has no chat template, so no conversation can have images.",
            hint="Put the model's chat_template.jinja beside config.json.",
        )
    try:
        told = template.render([ChatMessage(role="user", content=(
            FilePart(kind="image", data=""), TextPart(text=PROBE), FilePart(kind="image", data=""),
        ))])  # fmt: skip
    except LMaaSError as error:
        raise ModelRefused(f"The chat template does not render an image: {error.message}") from None
    finally:
        template.close()
    spelled = tokenizer.convert_ids_to_tokens(token)
    if told.count(spelled) != 2 or PROBE not in told:
        raise ModelRefused(
            f"The chat template shows two images and a text as {told[:200]!a}; expected "
            f"{spelled} for each image."
        )
    return template.source


def pictured(processor: Any, vision: VisionSpec, vocabulary: int, most: int) -> list[Pictured]:
    """Prompts with one image, two, and the first one again among other tokens."""
    rng = np.random.default_rng(SEED)
    tokens = np.array([token for token in range(vocabulary) if token != vision.token_id])
    shapes = ((vision.height, vision.width), (vision.height * 3 // 2 + 1, vision.width * 2 + 1))
    drawn = [draw(rng, height, width) for height, width in shapes]
    made = []
    for images in ([drawn[0]], [drawn[1], drawn[0]], [drawn[1]]):
        parts = [tokens[rng.integers(0, len(tokens), 5)]]
        for pixels in images:
            height, width = pixels.shape[:2]
            size = tiles.count((width, height), vision) if vision.grids else vision.tokens
            parts += [
                np.full(size, vision.token_id),
                tokens[rng.integers(0, len(tokens), 7)],
            ]
        ids = np.concatenate(parts)
        if len(ids) + 16 > most:
            continue
        inputs = processor([Image.fromarray(pixels) for pixels in images], return_tensors="pt")
        given = {name: inputs[name] for name in ("pixel_values", "image_sizes") if name in inputs}
        made.append(Pictured(ids, tuple(images), given))
    if not made:
        raise ModelRefused(
            f"An image is {vision.tokens} tokens, and the model's context {most}: none fits."
        )
    return made


def draw(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Soft colours with noise, (height, width, 3) uint8."""
    coarse = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize((width, height)), np.int16)
    noisy = np.clip(soft + rng.integers(-20, 21, soft.shape), 0, 255)
    return np.asarray(noisy, np.uint8)


def export(model: Any, folder: Path) -> None:
    """Write the compiled parts and the configs beside them. Raises ModelRefused."""
    ov.load()
    import torch
    from optimum.exporters.openvino.convert import export_from_model

    with causal.exporting(model):
        export_from_model(
            model,
            folder,
            task=TASK,
            stateful=True,
            patch_16bit_model=model.dtype != torch.float32,
        )
    vision_graphs.finish(folder)
