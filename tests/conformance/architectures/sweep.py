"""Each architecture pushed as a user pushes it, asked through its engine, held against its source.

`python -m conformance.architectures` (in `tests/`) runs the whole table and writes
docs/reference/architectures.md.
"""

import shutil
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from checkpoints import byte_fallback_tokenizer, tokenizer
from conformance.architectures.table import BASE, Architecture
from lmaas.errors import LMaaSError
from lmaas.frameworks import importer
from lmaas.frameworks.causal_sample import boundaries
from lmaas.runtime.language.engine import EngineOptions, TokenSampling, make_language_engine
from lmaas.types import LanguageSpec, Manifest, PushOptions

EXACT = 1e-3
"""Of log probabilities in f32, with the cache in f32."""
SERVED = 3e-2
"""The same with a cache in 16 bits, as OpenVINO keeps it."""
ANSWER = 12
LENGTHS = (1, 40, 200)


class Outcome(NamedTuple):
    """What came of one architecture. `engine` "" where it was refused; errors of log-probabilities,
    with an exact cache and as served; `wrong`: tokens that the source holds clearly less likely."""

    name: str
    engine: str
    exact_error: float
    served_error: float
    wrong: int
    why: str
    seconds: float

    @property
    def verdict(self) -> str:
        """One word for the table."""
        if not self.engine:
            return "refused"
        good = not self.wrong and self.exact_error <= EXACT and self.served_error <= SERVED
        return "exact" if good else "WRONG"


def make(row: Architecture, folder: Path) -> Any:
    """The checkpoint, and its model in f32."""
    import torch
    import transformers

    tokens = byte_fallback_tokenizer() if row.fallback else tokenizer()
    own = {"vocab_size": len(tokens), "bos_token_id": None, "eos_token_id": tokens.eos_token_id,
           "pad_token_id": tokens.pad_token_id}  # fmt: skip
    sizes = own | ({} if row.whole else BASE) | row.sizes
    config = getattr(transformers, f"{row.kind}Config")(**sizes)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    _spread(model)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return model


def _spread(model: Any) -> None:
    """Weights that initializers leave at 0 or 1 get a share of chance, so that all count."""
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim <= 1 and "A_log" not in name and float(weight.std()) < 1e-6:
                weight += 0.1 * torch.randn_like(weight)


def sweep(row: Architecture) -> Outcome:
    """Make, push and ask one architecture."""
    began = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="sweep"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = make(row, folder / "checkpoint")
            try:
                manifest = push(folder)
            except LMaaSError as error:
                return Outcome(row.name, "", 0, 0, 0, error.message, time.perf_counter() - began)
            return ask(row, model, folder, manifest, began)
    finally:
        shutil.rmtree(folder)


def push(folder: Path) -> Manifest:
    """The package of the checkpoint, as the sandboxed child makes it."""
    request = importer.ImportRequest(
        path=str(folder / "checkpoint"),
        folder=str(folder / "package"),
        options=PushOptions(name="swept"),
    )
    return msgspec.json.decode(importer.run(msgspec.json.encode(request)), type=Manifest)


def ask(row: Architecture, model: Any, folder: Path, manifest: Manifest, began: float) -> Outcome:
    """Ask the engine that serves it, each prompt alone and all at once."""
    spec = manifest.signature.language
    assert spec is not None
    compiled = folder / "package" / "compiled"
    engine = "openvino-genai" if compiled.exists() else "torch"
    place = compiled if compiled.exists() else folder / "package" / "source"
    asked = prompts(model, spec)
    exact, wrong = compare(model, engine, place, spec, asked, exact=True)
    served, also = (exact, 0)
    if engine != "torch":
        served, also = compare(model, engine, place, spec, asked, exact=False)
    why = str(manifest.lineage.recipe.get("not_compiled", ""))
    return Outcome(row.name, engine, exact, served, wrong + also, why, time.perf_counter() - began)


def prompts(model: Any, spec: LanguageSpec) -> list[list[int]]:
    """Prompts of the plain lengths, beyond each boundary, and two that begin alike."""
    rng = np.random.default_rng(7)
    most = spec.context_length - ANSWER
    lengths = [length for length in LENGTHS if length <= most]
    for place in boundaries(model.config.get_text_config().to_dict(), spec.context_length):
        lengths += [length for length in (place - 4, place + 20) if 1 <= length <= most]
    if most < 1000:
        lengths.append(most)
    size = spec.vocabulary_size
    told = [rng.integers(3, size, length).tolist() for length in sorted(set(lengths))]
    return [*told, [*told[-1][:70], *told[1][:9]][:most]]


def compare(
    model: Any, name: str, place: Path, spec: LanguageSpec, asked: list[list[int]], *, exact: bool
) -> tuple[float, int]:
    """The largest error of a log probability, and the number of wrong tokens."""
    import torch

    engine = make_language_engine(name)
    options = EngineOptions(precision="f32", cache_bytes=1 << 27, exact_cache=exact)
    engine.load(place, spec, options)
    sampling = TokenSampling(max_tokens=ANSWER, temperature=0.0, logprobs=0)
    worst, wrong = 0.0, 0
    try:
        for group in ([[prompt] for prompt in asked] if exact else []) + [asked]:
            for number, prompt in enumerate(group):
                engine.add(number, prompt, sampling)
            told: dict[int, list[tuple[int, float]]] = {n: [] for n in range(len(group))}
            while engine.busy():
                for output in engine.step():
                    if output.error is not None:
                        raise output.error
                    scores = [score.logprob for score in output.scores]
                    told[output.sequence] += zip(output.tokens, scores, strict=True)  # type: ignore[arg-type]
            for number, prompt in enumerate(group):
                tokens = [token for token, _ in told[number]]
                if len(tokens) != ANSWER:
                    wrong += ANSWER
                    continue
                with torch.inference_mode():
                    ids = torch.tensor([prompt + tokens])
                    logits = model(input_ids=ids).logits[0].float()
                rows = logits[len(prompt) - 1 : -1].log_softmax(-1)
                own = rows.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
                errors = (own - torch.tensor([score for _, score in told[number]])).abs()
                worst = max(worst, float(errors.max()))
                bound = 2 * (EXACT if exact else SERVED)
                wrong += int((rows.amax(-1) - own > bound).sum())
    finally:
        engine.close()
    return worst, wrong
