"""Models that compare images with texts: from a CLIP or SigLIP checkpoint to a package.

One graph has both towers: pixels (images, 3, H, W) and token ids (labels, tokens) in, the likeness
of each image to each text out, in the model's own temperature, and the vector of each at length 1.
There may be no images, or no texts: a tower without any costs nothing. SigLIP has learned texts of
one length, padding included, and each pair by itself: so its tokens are padded to that length, and
what it gives are probabilities (Zhai et al., 2023).
"""

import shutil
import warnings
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from PIL import Image

from lmaas import tasks
from lmaas.codecs import image as images_codec
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
FAMILIES: Final = ("clip", "siglip")
"""Values of `model_type` that are served."""
PIXELS, LOGITS = "pixel_values", "logits_per_image"
IMAGES, TEXTS = "image_vectors", "text_vectors"
MOST_IMAGES, MOST_LABELS = 32, 2048
SEED: Final = 0
PIXEL_ERROR: Final = 1e-3
"""Of pixels that are scaled and normalised."""
LABELS: Final = (
    "a cat.",
    "a dog",
    "the weather in the mountains",
    "a house by the sea, at night",
    "x",
)
CASES: Final = ((1, 2), (2, 5), (1, 1), (3, 3), (0, 3), (2, 0))
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
    alone = raw["model_type"] == "siglip"
    pad = tokenizer.pad_token_id if alone else 0
    if pad is None:
        raise ModelRefused("The tokenizer has no token to pad with, which SigLIP reads.")
    told = references(model, processor, image, spec, compiled, pad=pad if alone else None)
    graph = convert(model, told[1].inputs, spec.context_length, pad=pad if alone else None)
    assert told[0].outputs is not None
    width = int(told[0].outputs[TEXTS].shape[1])
    spec = msgspec.structs.replace(spec, dimensions=width)
    signature = _signature(spec, image, width, alone=alone)
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
        resize="short" if shape.resize == "crop" else "stretch",
        short_side=shape.short_side,
        resample=shape.resample,
    )


def references(
    model: Any,
    processor: Any,
    image: ImageSpec,
    spec: LanguageSpec,
    compiled: Path,
    *,
    pad: int | None,
) -> list[cases.Case]:
    """Images and labels, and the source's own answers: each label alone, unpadded, or with `pad`
    filled up to the whole length.
    """
    import torch

    rng = np.random.default_rng(SEED)
    reader = text.Tokenizer(compiled / "tokenizer.json")
    long = msgspec.structs.replace(spec, context_length=1 << 10)
    tokens = [
        text.Tokens(each.ids[: spec.context_length])
        for each in reader.encode(LABELS, long, param="sample")
    ]
    made = []
    for case in CASES:
        # The source takes no nothing: it is asked with one more, which is left out.
        images, labels = (max(1, count) for count in case)
        shown = [
            Image.fromarray(draw(rng, image.height + 7 * place, image.width * 2 + place))
            for place in range(images)
        ]
        pixels = processor(shown, return_tensors="np")[PIXELS].astype(np.float32)
        own = np.stack([images_codec.to_array(each, image, "float32") for each in shown])
        if own.shape != pixels.shape or np.abs(own - pixels).max() > PIXEL_ERROR:
            raise ModelRefused(
                f"{type(processor).__name__} makes other pixels of an image than are made here."
            )
        longest = max(len(each.ids) for each in tokens[:labels])
        longest = longest if pad is None else spec.context_length
        inputs = {PIXELS: pixels, **text.pad(tokens[:labels], longest, types=False)}
        columns, vectors = [], []
        with torch.inference_mode():
            for each in tokens[:labels]:
                filled = [] if pad is None else [pad] * (longest - len(each.ids))
                ids = torch.tensor([[*each.ids, *filled]])
                given = {} if pad is not None else {"attention_mask": torch.ones_like(ids)}
                told = model(pixel_values=torch.from_numpy(pixels), input_ids=ids, **given)
                likeness = told.logits_per_image[:, 0]
                columns.append((likeness if pad is None else likeness.sigmoid()).numpy())
                vectors.append(told.text_embeds[0].numpy())
        images, labels = case
        inputs = {n: array[: images if n == PIXELS else labels] for n, array in inputs.items()}
        outputs = {
            LOGITS: np.stack(columns, 1)[:images, :labels],
            IMAGES: told.image_embeds.numpy()[:images],
            TEXTS: np.stack(vectors)[:labels],
        }
        outputs = {n: np.ascontiguousarray(array, np.float32) for n, array in outputs.items()}
        name = f"images {images}, labels {labels}"
        made.append(cases.Case(name=name, inputs=inputs, outputs=outputs))
    return made


def convert(
    model: Any, example: dict[str, np.ndarray], context_length: int, *, pad: int | None
) -> Any:
    """Both towers as an `openvino.Model`. Raises ModelRefused for what cannot be exported."""
    import torch

    class Judge(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        """Pixels and token ids in, the likeness of each pair and the vectors out."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Any, ids: Any, mask: Any) -> Any:
            """Logits (images, labels), or probabilities; vectors of images, and of texts."""
            if pad is not None:
                ids = ids * mask + (1 - mask) * pad
                told = self.model(pixel_values=pixels, input_ids=ids)
                return told.logits_per_image.sigmoid(), told.image_embeds, told.text_embeds
            told = self.model(pixel_values=pixels, input_ids=ids, attention_mask=mask)
            return told.logits_per_image, told.image_embeds, told.text_embeds

    dim = torch.export.Dim
    images, labels = dim("images", min=1, max=MOST_IMAGES), dim("labels", min=1, max=MOST_LABELS)
    texts = {0: labels}
    if pad is None:
        texts[1] = dim("tokens", min=2, max=context_length)
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


def _signature(spec: LanguageSpec, image: ImageSpec, width: int, *, alone: bool) -> Signature:
    """Vectors have `width` numbers. `alone`: texts have one length, and each pair a probability by
    itself.
    """
    length, axis = (spec.context_length, "") if alone else (BATCH, "tokens")
    tokens = {"dtype": "int64", "shape": (BATCH, length), "axes": ("labels", axis)}
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
            *(
                TensorSpec(name=name, dtype="float32", shape=(BATCH, width), axes=(axis, ""))
                for name, axis in ((IMAGES, "images"), (TEXTS, "labels"))
            ),
        ),
        batch=False,
        axes={
            "images": (0, MOST_IMAGES),
            "labels": (0, MOST_LABELS),
            **({} if alone else {"tokens": (2, spec.context_length)}),
        },
        outputs_are="probabilities" if alone else "logits",
        language=spec,
        image=image,
    )
