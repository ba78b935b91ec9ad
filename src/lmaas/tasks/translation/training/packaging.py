"""A trained translator as a package: the checkpoint, its graphs, and what it writes to be proven.

`source/` is a checkpoint in the form of transformers' M2M100, whatever framework learned it, with
the framework's own file beside it; so a model of one framework can be trained on in another.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas import frameworks
from lmaas.errors import InvalidInput
from lmaas.frameworks.sequence import families
from lmaas.frameworks.sequence.compile import compile_network
from lmaas.frameworks.sequence.spec import spec_of
from lmaas.recipe import ModelChoice, TrainingFramework
from lmaas.runtime.sequence import parity, references
from lmaas.runtime.sequence.references import How, Reference
from lmaas.tasks import text_layout
from lmaas.tasks.text_layout import TOKENIZER, TextLayout
from lmaas.tasks.translation.options import EncoderDecoder
from lmaas.training import encoder_decoder as layout
from lmaas.training import pairs
from lmaas.training.base import Facts
from lmaas.training.problems.base_model import read_manifest
from lmaas.training.problems.classification import lineage
from lmaas.types import Manifest, SequenceSpec, Signature

WEIGHTS: Final = "model.safetensors"
CONFIG: Final = "config.json"
ARCHITECTURE: Final = "encoder-decoder"
MOST_REFERENCE: Final = 64
"""So many tokens are written of each sample."""


class Trained(msgspec.Struct, kw_only=True):
    """A model as it was learned. `samples` are sources that it is proven with; `coder` are its own
    functions, see `pairs.write_greedily`.
    """

    framework: TrainingFramework
    model: Any
    weights: layout.Weights
    sizes: EncoderDecoder
    choice: ModelChoice
    most: int
    tokenizer: Path
    layout: TextLayout
    samples: list[np.ndarray]
    coder: Any


class Own(msgspec.Struct, kw_only=True):
    """What a package of ours tells who trains it on."""

    sizes: EncoderDecoder
    most: int
    tokenizer: Path
    weights: Path
    layout: TextLayout


def write(folder: Path, facts: Facts, trained: Trained) -> None:
    """Write the package. Raises ParityFailed where the graphs do not write what the model does."""
    vocabulary = len(trained.weights[f"{layout.SHARED}.weight"])
    config = layout.config(trained.sizes, vocabulary, trained.most)
    source, compiled = folder / "source", folder / "compiled"
    _write_source(source, config, trained)
    network, weights = families.read(config, layout.checkpoint(trained.weights))
    compile_network(network, weights, compiled)
    shutil.copyfile(trained.tokenizer, compiled / TOKENIZER)
    text_layout.write(trained.layout, compiled)
    spec = spec_of(
        network,
        architecture=str(config["architectures"][0]),  # type: ignore[index]
        most_source=trained.most,
        most_target=trained.most,
        start=(layout.EOS,),
        stop_token_ids=(layout.EOS,),
        pad_token_id=layout.PAD,
        directions=trained.layout.directions,
    )
    sample = folder / "sample.safetensors"
    references.write(sample, [_reference(ids, trained, spec) for ids in trained.samples])
    parity.require(parity.measure(compiled, sample, spec))
    recipe = msgspec.structs.replace(facts.recipe, model=trained.choice)
    framework = frameworks.get(trained.framework)
    manifest = Manifest(
        name=recipe.name,
        task=recipe.task,
        framework=trained.framework,
        engine="encoder-decoder",
        engine_reason="it is an encoder-decoder",
        signature=Signature(inputs=(), outputs=(), sequence=spec),
        num_parameters=sum(array.size for array in trained.weights.values()),
        framework_version=framework.version(),
        metrics=facts.metrics,
        lineage=lineage(recipe, facts),
        card=facts.card or recipe.card,
    )
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))


def _write_source(source: Path, config: dict[str, Any], trained: Trained) -> None:
    from safetensors.numpy import save_file

    if trained.framework != "pytorch":
        # The framework's own file first: a SavedModel takes a folder for itself.
        arrays = _inputs(trained.samples[:2])
        frameworks.get(trained.framework).save(trained.model, source, arrays)
    source.mkdir(parents=True, exist_ok=True)
    weights = {n: np.ascontiguousarray(a) for n, a in layout.checkpoint(trained.weights).items()}
    save_file(weights, source / WEIGHTS, metadata={"format": "pt"})
    (source / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    shutil.copyfile(trained.tokenizer, source / TOKENIZER)


def _inputs(samples: list[np.ndarray]) -> dict[str, np.ndarray]:
    return pairs.Encoded(samples, samples).feed(np.arange(len(samples))).inputs


def _reference(ids: np.ndarray, trained: Trained, spec: SequenceSpec) -> Reference:
    """What the framework's own model writes for a source, and how probable each token is."""
    encode, decode = trained.coder
    feed = pairs.Encoded([ids], [ids]).feed(np.array([0]))
    most = min(spec.most_target, MOST_REFERENCE)
    (tokens,) = pairs.write_greedily(trained.coder, feed, most - 1)
    given = np.array([[layout.EOS, *tokens]], np.int64)
    mask = feed.inputs["attention_mask"]
    logits = decode(encode(feed.inputs["input_ids"], mask), mask, given)[0].astype(np.float64)
    top = logits.max(-1, keepdims=True)
    shares = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    return Reference(
        source=ids.astype(np.int64),
        prompt=(layout.EOS,),
        how=How(max_tokens=most, stop_token_ids=(layout.EOS,)),
        tokens=tuple(tokens),
        scores=shares[np.arange(len(tokens)), tokens].astype(np.float32),
    )


def is_own(folder: Path) -> bool:
    """Whether a base's network is one of ours, and no checkpoint's."""
    told = read_manifest(folder).lineage.recipe.get("recipe")
    model = told.get("model") if isinstance(told, dict) else None
    return isinstance(model, dict) and model.get("architecture") == ARCHITECTURE


def read(folder: Path) -> Own:
    """What of a base is trained on. Raises InvalidInput for what no run of ours made."""
    manifest = read_manifest(folder)
    told = manifest.lineage.recipe.get("recipe")
    if manifest.task != "translation" or not isinstance(told, dict):
        raise InvalidInput(
            f"The base is a model of {manifest.task} that no run of translation made.",
            hint="Train on a version that a run of this task made, or on a checkpoint.",
            param="model.base",
        )
    try:
        sizes = msgspec.convert(told["model"]["options"], EncoderDecoder)
        spec = manifest.signature.sequence
        assert spec is not None
    except (KeyError, TypeError, AssertionError, msgspec.ValidationError):
        raise InvalidInput(
            "The base does not say what its network is.", param="model.base"
        ) from None
    return Own(
        sizes=sizes,
        most=spec.most_target,
        tokenizer=folder / "source" / TOKENIZER,
        weights=folder / "source" / WEIGHTS,
        layout=text_layout.read(folder / "compiled"),
    )
