"""Child entry: is this package what its manifest says? Replies with manifest and parity report.

Run by `placement.sandbox`; needs only the base dependencies.
"""

from pathlib import Path
from typing import Final

import msgspec

from lmaas import tasks
from lmaas.errors import InvalidInput, ModelRefused
from lmaas.runtime import ov, parity
from lmaas.runtime.cases import SAMPLE_FILE
from lmaas.runtime.engine import ENGINES, require_engine
from lmaas.runtime.language import parity as language
from lmaas.runtime.language.engine import ENGINES as LANGUAGE_ENGINES
from lmaas.runtime.language.references import MOST_PIXELS
from lmaas.runtime.language.template import Template
from lmaas.runtime.native import script
from lmaas.runtime.pipeline import proof
from lmaas.runtime.sequence import parity as sequence
from lmaas.runtime.speech import parity as speech
from lmaas.types import (
    UNREADABLE,
    LanguageSpec,
    Manifest,
    ParityReport,
    Record,
    Signature,
    SpeechSpec,
    TensorSpec,
    VisionSpec,
)

TEXT_PARTS: Final = ("openvino_model",)
VISION_PARTS: Final = (
    "openvino_language_model", "openvino_text_embeddings_model", "vision_tower",
)  # fmt: skip
"""Graphs of a language model, and of one that takes images."""
MOST_NUMBERS: Final = 1 << 16
MOST_TILES: Final = 64
CODE: Final = {".pkl", ".pickle", ".joblib", ".sav", ".pt", ".pth", ".ckpt", ".pt2", ".h5", ".hdf5",
               ".py", ".pyc", ".so", ".npy", ".ipynb"}  # fmt: skip
"""Pickles and code. Sources of other kinds are checked by whatever loads them."""


class VerifyRequest(Record, frozen=True, kw_only=True):
    """The folder of the package."""

    folder: str


class Reply(Record, frozen=True, kw_only=True):
    """A manifest whose signature is complete, and the measured parity."""

    manifest: Manifest
    parity: ParityReport


def run(body: bytes) -> bytes:
    """Verify one package. Raises InvalidInput for a package that contradicts itself."""
    folder = Path(msgspec.json.decode(body, type=VerifyRequest).folder)
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, *UNREADABLE) as error:
        raise InvalidInput(f"The package has no valid manifest.json: {error}.") from None
    for path in folder.rglob("*"):
        if script.is_script(path):
            script.check(path)
        elif path.suffix.lower() in CODE:
            raise ModelRefused(
                f"The package has {path.relative_to(folder)}: such files run code where they are "
                "loaded.",
                hint="LMaaS writes no such file into a package.",
            )
    if manifest.parts:
        report = proof.check(folder / ENGINES["pipeline"].folder, manifest)
        return msgspec.json.encode(Reply(manifest=manifest, parity=report))
    signature = tasks.get(manifest.task).check_signature(manifest.signature)
    if tasks.spec(manifest.task).generates:
        assert signature.language is not None
        report = _language(folder, signature.language)
    elif signature.speech is not None:
        report = _speech(folder, signature.speech)
    elif manifest.engine == "encoder-decoder":
        report = _sequence(folder, manifest, signature)
    else:
        report = _tensors(folder, manifest, signature)
    checked = msgspec.structs.replace(manifest, signature=signature)
    return msgspec.json.encode(Reply(manifest=checked, parity=report))


def _language(folder: Path, spec: LanguageSpec) -> ParityReport:
    if min(spec.context_length, spec.vocabulary_size) < 1 or (
        spec.kv_bytes_per_token + spec.state_bytes < 1
    ):
        raise InvalidInput("The signature's lengths and sizes must be at least 1.")
    if any(not 0 <= token < spec.vocabulary_size for token in spec.stop_token_ids):
        raise InvalidInput("The signature has a stop token outside the vocabulary.")
    compiled, source, sample = (folder / n for n in ("compiled", "source", "sample.safetensors"))
    engine = LANGUAGE_ENGINES["openvino-genai" if compiled.exists() else "torch"]
    if not spec.accepts or engine.foreign(spec.accepts):
        raise InvalidInput(
            f"The signature says that the model takes {', '.join(spec.accepts) or 'nothing'}; the "
            f"engine {engine.name} takes {', '.join(engine.accepts)}."
        )
    for place in (compiled, source):
        Template.load(place)
    if spec.vision is not None:
        _check_vision(spec, spec.vision)
    if compiled.exists():
        _require_files(
            folder,
            *(
                compiled / f"{part}{suffix}"
                for part in (
                    *(TEXT_PARTS if spec.vision is None else VISION_PARTS),
                    "openvino_tokenizer",
                    "openvino_detokenizer",
                )
                for suffix in (".xml", ".bin")
            ),
            compiled / "tokenizer.json",
            sample,
        )
        report = language.measure(compiled, sample, spec, engine.name)
    else:
        _require_files(folder, source / "config.json", source / "tokenizer.json", sample)
        report = language.measure(source, sample, spec, engine.name)
    language.require(report)
    return report


def _check_vision(spec: LanguageSpec, vision: VisionSpec) -> None:
    sides = (vision.height, vision.width, vision.short_side or 1)
    if not 0 <= vision.token_id < spec.vocabulary_size or not (
        1 <= vision.tokens < spec.context_length
        and 1 <= min(sides) <= max(sides) <= MOST_PIXELS
        and 1 <= vision.numbers <= MOST_NUMBERS
        and all(std > 0 for std in vision.std)
        and (vision.resize == "stretch" or vision.short_side)
        and _whole_tiles(vision)
    ):
        raise InvalidInput("The signature's vision has sizes or tokens that cannot be.")


def _whole_tiles(vision: VisionSpec) -> bool:
    """Whether grids are made of whole tiles, and not of many."""
    return not vision.grids or (
        vision.tokens == vision.side**2
        and not vision.pad
        and all(
            not wide % vision.width
            and not high % vision.height
            and 1 <= (wide // vision.width) * (high // vision.height) <= MOST_TILES
            for wide, high in vision.grids
        )
    )


def _sequence(folder: Path, manifest: Manifest, signature: Signature) -> ParityReport:
    spec = signature.sequence
    if spec is None:
        raise InvalidInput("The signature does not tell what the encoder-decoder is.")
    if min(spec.most_source, spec.most_target, spec.vocabulary_size, spec.beams) < 1 or (
        spec.cache_bytes_per_token < 1 or spec.cache_bytes_per_source < 1
    ):
        raise InvalidInput("The signature's lengths and sizes must be at least 1.")
    last = () if spec.forced_last is None else (spec.forced_last,)
    named = (*last, *spec.start, *spec.stop_token_ids, *spec.suppressed, *spec.suppressed_first,
             *spec.languages.values(), spec.pad_token_id)  # fmt: skip
    if any(not 0 <= token < spec.vocabulary_size for token in named):
        raise InvalidInput("The signature names a token outside the vocabulary.")
    compiled, sample = folder / "compiled", folder / SAMPLE_FILE
    graphs = (compiled / f"{name}{end}" for name in ("encoder", "decoder")
              for end in (".xml", ".bin"))  # fmt: skip
    _require_files(folder, sample, *graphs)
    tasks.get(manifest.task).bind(compiled)
    report = sequence.measure(compiled, sample, spec, bf16=True)
    sequence.require(report)
    return report


def _tensors(folder: Path, manifest: Manifest, signature: Signature) -> ParityReport:
    engine = manifest.engine
    _require_files(folder, folder / SAMPLE_FILE)
    files = folder / ENGINES[engine].folder
    if engine == "openvino":
        _require_files(folder, files / "model.xml", files / "model.bin")
        try:
            model = ov.core().read_model(files / "model.xml")
        except RuntimeError as error:
            raise InvalidInput(f"compiled/model.xml is not an OpenVINO model: {error}.") from None
        for ports, specs in ((model.inputs, signature.inputs), (model.outputs, signature.outputs)):
            _check_ports(ports, specs)
    else:
        require_engine(engine, manifest.name)
    tasks.get(manifest.task).bind(files)
    # A threshold is passed or not: in half the digits rows end in other leaves, if not those of
    # the sample then others.
    bf16 = manifest.framework not in ("lightgbm", "stack")
    return parity.measure(folder, signature, manifest.task, engine, bf16=bf16)


def _speech(folder: Path, spec: SpeechSpec) -> ParityReport:
    compiled, sample = folder / "compiled", folder / SAMPLE_FILE
    graphs = (
        compiled / f"openvino_{part}{suffix}"
        for part in ("encoder_model", "decoder_model", "postnet", "vocoder", "tokenizer")
        for suffix in (".xml", ".bin")
    )
    _require_files(folder, *graphs, compiled / "tokenizer.json", sample)
    return speech.measure(compiled, sample, spec)


def _require_files(folder: Path, *paths: Path) -> None:
    for path in paths:
        if not path.is_file():
            raise InvalidInput(f"The package has no {path.relative_to(folder)}.")


def _check_ports(ports: list[object], specs: tuple[TensorSpec, ...]) -> None:
    found = [sorted(port.get_names()) for port in ports]  # type: ignore[attr-defined]
    if len(ports) != len(specs) or any(
        not any(spec.name in names for names in found) for spec in specs
    ):
        raise InvalidInput(
            f"The compiled model has the tensors {found}; the signature names "
            f"{[spec.name for spec in specs]}."
        )
