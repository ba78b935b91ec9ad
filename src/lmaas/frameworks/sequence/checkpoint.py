"""Encoder-decoders from Hugging Face: from a checkpoint's folder to a package that is proven.

The graphs are made of the stored weights, without torch; torch runs the source once, to say what it
writes. Weights keep the precision that they are stored in.
"""

import shutil
import warnings
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.errors import ModelRefused
from lmaas.frameworks import checkpoint
from lmaas.frameworks.sequence import families, marian_tokens
from lmaas.frameworks.sequence.compile import compile_network
from lmaas.frameworks.sequence.network import Network
from lmaas.frameworks.sequence.sample import write_sample
from lmaas.frameworks.sequence.spec import RELATIVE_PLACES, audio_of, ids, languages, spec_of
from lmaas.frameworks.sequence.stored import Stored
from lmaas.frameworks.sequence.texts import layout_of
from lmaas.runtime.sequence import parity
from lmaas.tasks import text_layout
from lmaas.tasks.text_layout import TextLayout
from lmaas.types import (
    AudioSpec,
    ImageSpec,
    Lineage,
    Manifest,
    PushOptions,
    SequenceSpec,
    Signature,
)

BESIDE: Final = ("config.json", "generation_config.json", "preprocessor_config.json",
                 "tokenizer_config.json", "special_tokens_map.json",
                 text_layout.TARGET_TOKENIZER)  # fmt: skip
"""Files that serving may read beside the graphs and the tokenizer."""
SPARE: Final = ("embed_positions", "final_logits_bias", "embed_tokens", "lm_head", "proj_out",
                "pooler", "output_projection")  # fmt: skip
"""Parts of names of tensors that older checkpoints have or lack: tied, or computed."""
BILINEAR: Final = 2
"""Pillow's number of it."""
LOADS: Final = {"tokens": "AutoModelForSeq2SeqLM", "audio": "AutoModelForSpeechSeq2Seq",
                "image": "VisionEncoderDecoderModel"}  # fmt: skip


def build(folder: Path, options: PushOptions, target: Path) -> Manifest:
    """A package in `target` of the checkpoint in `folder`, for the task in `options` or the one
    that its architecture tells.

    Raises ModelRefused naming what cannot be built, ParityFailed where the engine does not write
    what transformers' `generate` writes.
    """
    import torch

    config = checkpoint.read_config(folder)
    generation = _json(folder / "generation_config.json")
    merged = {**config, "alignment_heads": generation.get("alignment_heads")}
    stored = Stored(folder)
    network, weights = families.read(merged, stored)
    if marian_tokens.is_marian(folder):
        marian_tokens.convert(folder)
    tokenizer = checkpoint.load_tokenizer(folder)
    model = _load(folder, network)
    generation = {**_legacy(config), **model.generation_config.to_dict(), **generation}
    image = _image(folder) if network.source == "image" else None
    compiled = target / "compiled"
    compile_network(network, weights, compiled, _tower(model, image) if image else None)
    spec = read_spec(config, generation, network, weights, tokenizer, image)
    audio = _audio(folder, network) if network.source == "audio" else None
    for name in BESIDE:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, compiled / name)
    shutil.copyfile(folder / "tokenizer.json", compiled / "tokenizer.json")
    layout = TextLayout()
    if network.source == "tokens":
        layout = layout_of(tokenizer, config, spec, _json(folder / "tokenizer_config.json"))
        spec = msgspec.structs.replace(spec, directions=layout.directions)
        text_layout.write(layout, compiled)
    sample = target / "sample.safetensors"
    write_sample(
        model,
        spec,
        _prompts(spec, layout),
        sample,
        shape=_shape(network, image),
        avoid=frozenset(tokenizer.all_special_ids) | {spec.pad_token_id},
        layout=layout,
    )
    parity.require(parity.measure(compiled, sample, spec))
    manifest = Manifest(
        name=options.name,
        task=options.task or checkpoint.task_of(config),
        framework="pytorch",
        engine="encoder-decoder",
        engine_reason="it is an encoder-decoder",
        signature=Signature(inputs=(), outputs=(), sequence=spec, audio=audio, image=image),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        framework_version=str(torch.__version__),
        lineage=Lineage(origin="push"),
        card=options.card,
    )
    (target / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def read_spec(
    config: dict[str, Any],
    generation: dict[str, Any],
    network: Network,
    weights: dict[str, np.ndarray],
    tokenizer: Any,
    image: ImageSpec | None = None,
) -> SequenceSpec:
    """What is fixed about the model. Raises ModelRefused for configs that contradict it."""
    size = network.vocabulary
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= size and network.source == "tokens":
        raise ModelRefused(
            f"The tokenizer gives tokens up to {highest}; the model's vocabulary has {size}.",
            hint="Take the tokenizer that the model was trained with.",
        )
    start = ids(generation.get("decoder_start_token_id"), "start token", size)
    forced = ids(generation.get("forced_bos_token_id"), "first token", size)
    stops = ids(generation.get("eos_token_id"), "stop token", size)
    pad = ids(generation.get("pad_token_id"), "pad token", size) or stops or (0,)
    if not start or not stops:
        raise ModelRefused(
            "The configs name no token that begins an answer, or none that ends it.",
            hint="generation_config.json needs decoder_start_token_id and eos_token_id.",
        )
    most = {half: len(weights.get(f"{half}.positions", ())) for half in ("encoder", "decoder")}
    told = config.get("n_positions") or RELATIVE_PLACES
    special = {text: tokenizer.convert_tokens_to_ids(text) for text in _special(tokenizer)}
    last = ids(generation.get("forced_eos_token_id"), "last token", size)
    target = most["decoder"] or told
    usual = generation.get("max_length") or generation.get("max_new_tokens") or target
    penalty = generation.get("length_penalty")
    lengths = {"tokens": most["encoder"] or told, "audio": network.frames or 0, "image": 1}
    return spec_of(
        network,
        architecture=checkpoint.architecture_of(config),
        most_source=lengths[network.source],
        most_target=target,
        source_places=0 if image is None else _patches(config, image),
        start=start[:1] + (forced[:1] if not languages(special, generation) else ()),
        stop_token_ids=stops,
        pad_token_id=pad[0],
        suppressed=ids(generation.get("suppress_tokens"), "suppressed token", size),
        suppressed_first=ids(generation.get("begin_suppress_tokens"), "suppressed token", size),
        languages=languages(special, generation),
        beams=int(generation.get("num_beams") or 1),
        length_penalty=1.0 if penalty is None else float(penalty),
        early_stop=generation.get("early_stopping") is True,
        no_repeat_ngram=int(generation.get("no_repeat_ngram_size") or 0),
        least_target=min(int(generation.get("min_length") or 0), target - 1),
        usual_target=min(int(usual), target),
        forced_last=last[0] if last else None,
    )


def _special(tokenizer: Any) -> list[str]:
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return list(dict.fromkeys([*added, *tokenizer.all_special_tokens]))


def _json(path: Path) -> dict[str, Any]:
    from lmaas.frameworks import refuse_checkpoint

    if not path.is_file():
        return {}
    return refuse_checkpoint.read_json(path, refuse_checkpoint.MAX_CONFIG_BYTES)


def _legacy(config: dict[str, Any]) -> dict[str, Any]:
    """What configs of old say of generation."""
    names = ("decoder_start_token_id", "eos_token_id", "pad_token_id", "num_beams",
             "length_penalty", "forced_bos_token_id", "forced_eos_token_id", "max_length",
             "min_length", "no_repeat_ngram_size", "early_stopping")  # fmt: skip
    return {name: config[name] for name in names if config.get(name) is not None}


def _load(folder: Path, network: Network) -> Any:
    import torch
    import transformers

    kind = getattr(transformers, LOADS[network.source])
    return checkpoint.load_model(kind, folder, torch.float32, spare=SPARE)


def _prompts(spec: SequenceSpec, layout: TextLayout) -> list[tuple[int, ...]]:
    """How answers begin: with the first languages of the model where it has any."""
    some = list(spec.languages.values())[:3]
    if not some or (spec.source == "tokens" and layout.target == "none"):
        return [spec.start]
    return [(token,) if layout.target == "is-start" else (*spec.start, token) for token in some]


def _shape(network: Network, image: ImageSpec | None) -> tuple[int, ...]:
    if network.source == "audio":
        assert network.frames is not None
        return (network.mel_bins, network.frames)
    return () if image is None else (image.channels, image.height, image.width)


def _audio(folder: Path, network: Network) -> AudioSpec:
    return audio_of(_json(folder / "preprocessor_config.json"), network)


def _image(folder: Path) -> ImageSpec:
    """How an image becomes the input, by preprocessor_config.json. Raises ModelRefused."""
    told = _json(folder / "preprocessor_config.json") or _json(
        folder / "processor_config.json"
    ).get("image_processor", {})
    size = told.get("size")
    if isinstance(size, dict) and {"height", "width"} <= set(size):
        height, width = size["height"], size["width"]
    elif isinstance(size, int):
        height = width = size
    else:
        raise ModelRefused("preprocessor_config.json tells no height and width of an image.")
    if told.get("do_resize", True) is False or told.get("do_center_crop"):
        raise ModelRefused("Only images that are resized to the encoder's size are read.")
    if told.get("resample", BILINEAR) != BILINEAR:
        raise ModelRefused(
            f"preprocessor_config.json has resample {told['resample']!a}; images are scaled "
            f"bilinearly here, which is {BILINEAR}."
        )
    normal = told.get("do_normalize", True)
    return ImageSpec(
        height=height,
        width=width,
        scale=told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 1.0,
        mean=tuple(told.get("image_mean", (0.5,) * 3)) if normal else (0.0,),
        std=tuple(told.get("image_std", (0.5,) * 3)) if normal else (1.0,),
    )


def _patches(config: dict[str, Any], image: ImageSpec) -> int:
    """Places that an image becomes: its patches, and those tokens that towers add."""
    patch = config.get("encoder", {}).get("patch_size") or 16
    return (image.height // patch) * (image.width // patch) + 2


def _tower(model: Any, image: ImageSpec) -> Any:
    """An image's encoder as an OpenVINO model: pixels in, vectors (N, S, D) out."""
    import torch

    from lmaas.runtime import ov

    class Tower(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """The encoder's last vectors."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = model.encoder

        def forward(self, pixels: Any) -> Any:
            """Pixels (N, 3, height, width) to vectors (N, S, D)."""
            return self.encoder(pixel_values=pixels).last_hidden_state

    shape = (2, image.channels, image.height, image.width)
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of itself and of every Python branch
            tower = ov.load().convert_model(Tower().eval(), example_input=torch.zeros(shape))
    except Exception as error:  # noqa: BLE001 - OpenVINO wraps whatever tracing raised
        raise ModelRefused(
            f"The encoder of images cannot be compiled: {checkpoint.short(error)}."
        ) from None
    tower.reshape([-1, *shape[1:]])
    return tower
