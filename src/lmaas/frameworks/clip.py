"""Models that compare images with texts: from a CLIP checkpoint to a package.

One graph has both towers: pixels (images, 3, H, W) and token ids (labels, tokens) in, the likeness
of each image to each text out, in the model's own temperature.
"""

import shutil
import warnings
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from PIL import Image

from lmaas import tasks
from lmaas.errors import ModelRefused
from lmaas.frameworks import checkpoint
from lmaas.frameworks.image_processor import load_processor, shape_of
from lmaas.frameworks.vision_language import draw
from lmaas.runtime import cases, ov
from lmaas.tasks import text
from lmaas.types import (
    BATCH,
    ImageSpec,
    LanguageSpec,
    Lineage,
    Manifest,
    PushOptions,
    Signature,
    TensorSpec,
)

TASK: Final = "zero-shot-image-classification"
FAMILIES: Final = ("clip",)
"""Values of `model_type` that are served."""
PIXELS, LOGITS = "pixel_values", "logits_per_image"
MOST_IMAGES, MOST_LABELS = 32, 2048
SEED: Final = 0
LABELS: Final = (
    "a cat.",
    "a dog",
    "the weather in the mountains",
    "a house by the sea, at night",
    "x",
)
CASES: Final = ((1, 2), (2, 5), (1, 1), (3, 3))
"""Images and labels of each comparison with the source."""


def build(folder: Path, options: PushOptions, target: Path) -> Manifest:
    """A package in `target` of the checkpoint in `folder`. Raises ModelRefused."""
    import torch
    from transformers import AutoModel

    raw = checkpoint.read_config(folder)
    if raw.get("model_type") not in FAMILIES:
        raise ModelRefused(
            f"Models of the type {str(raw.get('model_type'))[:100]!r} are not served as {TASK}; "
            f"served are {', '.join(FAMILIES)}."
        )
    tokenizer = checkpoint.load_tokenizer(folder)
    model = checkpoint.load_model(AutoModel, folder, torch.float32, spare=("position_ids",))
    processor = load_processor(folder)
    image = _image_spec(processor)
    config = model.config.text_config
    vocabulary = int(config.vocab_size)
    if len(tokenizer) > vocabulary:
        raise ModelRefused(
            f"The tokenizer has {len(tokenizer)} tokens; the model's embedding has {vocabulary}."
        )
    spec = LanguageSpec(
        architecture=type(model).__name__,
        context_length=int(config.max_position_embeddings),
        vocabulary_size=vocabulary,
    )
    compiled = target / "compiled"
    compiled.mkdir(parents=True)
    for name in ("tokenizer.json", "config.json"):
        shutil.copyfile(folder / name, compiled / name)
    told = references(model, processor, image, spec, compiled)
    graph = convert(model, told[1].inputs, spec.context_length)
    signature = _signature(spec, image)
    for ports, specs in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
        for port, one in zip(ports, specs, strict=True):
            port.get_tensor().set_names({one.name})
    graph.reshape(
        dict(zip(graph.inputs, (list(one.shape) for one in signature.inputs), strict=True))
    )
    ov.load().save_model(graph, compiled / "model.xml", compress_to_fp16=False)
    cases.write(target / cases.SAMPLE_FILE, told, cases.About())
    manifest = Manifest(
        name=options.name,
        task=TASK,
        framework="pytorch",
        signature=tasks.get(TASK).check_signature(signature),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        framework_version=str(torch.__version__),
        lineage=Lineage(origin="push"),
        card=options.card,
    )
    (target / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return manifest


def _image_spec(processor: Any) -> ImageSpec:
    shape = shape_of(processor)
    if shape.pad:
        raise ModelRefused("The image processor fills images up to a square: not supported here.")
    return ImageSpec(
        height=shape.height,
        width=shape.width,
        scale=shape.scale,
        mean=shape.mean,
        std=shape.std,
        resize="short",
        short_side=shape.short_side,
        resample=shape.resample,
    )


def references(
    model: Any, processor: Any, image: ImageSpec, spec: LanguageSpec, compiled: Path
) -> list[cases.Case]:
    """Images and labels, and the source's own answers: each label alone, unpadded."""
    import torch

    rng = np.random.default_rng(SEED)
    reader = text.Tokenizer(compiled / "tokenizer.json")
    long = msgspec.structs.replace(spec, context_length=1 << 10)
    tokens = [
        text.Tokens(each.ids[: spec.context_length])
        for each in reader.encode(LABELS, long, param="sample")
    ]
    made = []
    for images, labels in CASES:
        shown = [
            Image.fromarray(draw(rng, image.height + 7 * place, image.width * 2 + place))
            for place in range(images)
        ]
        pixels = processor(shown, return_tensors="np")[PIXELS].astype(np.float32)
        longest = max(len(each.ids) for each in tokens[:labels])
        inputs = {PIXELS: pixels, **text.pad(tokens[:labels], longest, types=False)}
        columns = []
        with torch.inference_mode():
            for each in tokens[:labels]:
                ids = torch.tensor([each.ids])
                given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                told = model(pixel_values=torch.from_numpy(pixels), **given)
                columns.append(told.logits_per_image[:, 0].numpy())
        outputs = {LOGITS: np.stack(columns, 1).astype(np.float32)}
        name = f"images {images}, labels {labels}"
        made.append(cases.Case(name=name, inputs=inputs, outputs=outputs))
    return made


def convert(model: Any, example: dict[str, np.ndarray], context_length: int) -> Any:
    """Both towers as an `openvino.Model`. Raises ModelRefused for what cannot be exported."""
    import torch

    class Judge(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """Pixels and token ids in, the likeness of each pair out."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Any, ids: Any, mask: Any) -> Any:
            """Logits (images, labels)."""
            told = self.model(pixel_values=pixels, input_ids=ids, attention_mask=mask)
            return told.logits_per_image

    dim = torch.export.Dim
    images, labels = dim("images", min=1, max=MOST_IMAGES), dim("labels", min=1, max=MOST_LABELS)
    texts = {0: labels, 1: dim("tokens", min=2, max=context_length)}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                Judge().eval(),
                tuple(torch.from_numpy(array) for array in example.values()),
                dynamic_shapes=({0: images}, texts, dict(texts)),
            )
            return ov.load().convert_model(program)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - exporters tell in many ways what they cannot do
        raise ModelRefused(
            f"{type(model).__name__} cannot be compiled: {checkpoint.short(error)}."
        ) from None


def _signature(spec: LanguageSpec, image: ImageSpec) -> Signature:
    tokens = {"dtype": "int64", "shape": (BATCH, BATCH), "axes": ("labels", "tokens")}
    return Signature(
        inputs=(
            TensorSpec(
                name=PIXELS,
                dtype="float32",
                shape=(BATCH, 3, image.height, image.width),
                axes=("images", "", "", ""),
            ),
            TensorSpec(name=text.IDS, **tokens),  # type: ignore[arg-type]
            TensorSpec(name=text.MASK, **tokens),  # type: ignore[arg-type]
        ),
        outputs=(
            TensorSpec(
                name=LOGITS, dtype="float32", shape=(BATCH, BATCH), axes=("images", "labels")
            ),
        ),
        batch=False,
        axes={
            "images": (1, MOST_IMAGES),
            "labels": (1, MOST_LABELS),
            "tokens": (2, spec.context_length),
        },
        language=spec,
        image=image,
    )
