"""What transformers' own `generate` writes about drawn sources: the references of a package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from lmaas.runtime.sequence import references
from lmaas.runtime.sequence.references import How, Reference
from lmaas.tasks.text_layout import SOURCE_LANGUAGE, TextLayout
from lmaas.types import SequenceSpec

LENGTHS: Final = (1, 4, 11, 19, 40)
"""Tokens of the drawn sources; they are read in one batch, so that padding shows."""
SOUNDS: Final = 3
BEAMS: Final = 4
MOST_TOKENS: Final = 40


def write_sample(
    model: Any,
    spec: SequenceSpec,
    prompts: Sequence[tuple[int, ...]],
    path: Path,
    *,
    shape: tuple[int, ...] = (),
    avoid: frozenset[int] = frozenset(),
    layout: TextLayout,
) -> None:
    """Write the references of a torch model: greedy and with 4 beams, for each drawn source.

    `prompts` take turns. `shape` is that of a sound's features or an image; of texts no token is
    one to `avoid`, and each has around it what the `layout` says.
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()  # else it fills in what is not set below
    told = [
        _reference(model, spec, source, prompts[number % len(prompts)], beams)
        for number, source in enumerate(_sources(spec, shape, avoid, layout))
        for beams in (1, BEAMS)
    ]
    references.write(path, told)


def _sources(
    spec: SequenceSpec, shape: tuple[int, ...], avoid: frozenset[int], layout: TextLayout
) -> list[np.ndarray]:
    chance = np.random.default_rng(0)
    if spec.source != "tokens":
        return [chance.standard_normal(shape).astype(np.float32) for _ in range(SOUNDS)]
    usable = np.array(sorted(set(range(spec.vocabulary_size)) - avoid))
    room = spec.most_source - len(layout.before) - len(layout.after)
    language = next(iter(spec.languages.values()), spec.pad_token_id)
    before, after = (
        [language if token == SOURCE_LANGUAGE else token for token in each]
        for each in (layout.before, layout.after)
    )
    return [
        np.array([*before, *chance.choice(usable, min(length, room)), *after], np.int64)
        for length in LENGTHS
    ]


def _reference(
    model: Any,
    spec: SequenceSpec,
    source: np.ndarray,
    prompt: tuple[int, ...],
    beams: int,
) -> Reference:
    import torch
    from transformers import GenerationConfig
    from transformers.generation.utils import GenerationMixin

    most = min(spec.most_target, len(prompt) + MOST_TOKENS)
    config = GenerationConfig(
        max_length=most,
        num_beams=beams,
        do_sample=False,
        length_penalty=spec.length_penalty if beams > 1 else None,
        eos_token_id=list(spec.stop_token_ids),
        pad_token_id=spec.pad_token_id,
        decoder_start_token_id=prompt[0],
        forced_eos_token_id=spec.forced_last,
        suppress_tokens=list(spec.suppressed) or None,
        begin_suppress_tokens=list(spec.suppressed_first) or None,
    )
    inputs = _inputs(spec, torch.from_numpy(source)[None])
    given = torch.tensor([prompt])
    with torch.inference_mode():
        # Whisper's own `generate` adds rules of its own; the plain one is what is compared.
        whole = GenerationMixin.generate(
            model, **inputs, decoder_input_ids=given, generation_config=config
        )[0].tolist()
        written = whole[len(prompt) :]
        stops = [place for place, token in enumerate(written) if token in spec.stop_token_ids]
        written = written[: stops[0]] if stops else written
        scores = _scores(model, inputs, prompt, written)
    if spec.forced_last is not None and len(prompt) + len(written) == most:
        scores[-1] = 0.0  # it is given: nothing else could have been written
    return Reference(
        source=source,
        prompt=prompt,
        how=How(
            max_tokens=most,
            beams=beams,
            length_penalty=spec.length_penalty,
            suppressed=spec.suppressed,
            suppressed_first=spec.suppressed_first,
            forced_last=spec.forced_last,
            stop_token_ids=spec.stop_token_ids,
        ),
        tokens=tuple(written),
        scores=scores,
    )


def _inputs(spec: SequenceSpec, source: Any) -> dict[str, Any]:
    import torch

    match spec.source:
        case "tokens":
            return {"input_ids": source, "attention_mask": torch.ones_like(source)}
        case "audio":
            return {"input_features": source}
        case "image":
            return {"pixel_values": source}


def _scores(
    model: Any, inputs: dict[str, Any], prompt: tuple[int, ...], written: list[int]
) -> np.ndarray:
    """The natural-log probability of each written token, in one pass over all."""
    import torch

    whole = torch.tensor([[*prompt, *written]])
    logits = model(**inputs, decoder_input_ids=whole).logits[0, len(prompt) - 1 : -1]
    shares = torch.log_softmax(logits.float(), -1)
    found = shares[torch.arange(len(written)), torch.tensor(written, dtype=torch.long)]
    return np.array(found.numpy())
