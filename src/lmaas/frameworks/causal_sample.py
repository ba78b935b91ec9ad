"""The prompts on which a language model's engines are compared with it, and what it says to them.

Lengths are chosen to prove an engine wrong: short ones, ones that are read in pieces, and ones on
both sides of every length at which the model computes differently (a window, a chunk, a bound of
its positions). What would cost too much is left out and told.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from lmaas.errors import ModelRefused
from lmaas.runtime.language import references
from lmaas.runtime.language.references import TOP, Reference

SEED: Final = 0
ROWS: Final = 8
"""Tokens of each answer that are compared."""
PLAIN: Final = (1, 2, 7, 40, 200)
"""Lengths of prompts for every model."""
PIECE: Final = 512
"""Engines read longer prompts in pieces of this size."""
BOUNDARY: Final = re.compile(r"window|chunk|block_size|original_max|max_position|n_positions")
"""Settings of a config that name a length at which a model may compute differently."""
BEFORE, BEYOND = 3, 9
"""Prompts end so far before such a length, so that the answer crosses it, and so far beyond it."""
BUDGET_FLOP: Final = 1e13
"""What the source may compute in all: about a minute on a small machine."""
BUDGET_TOKENS: Final = 10_000
"""What it may read in all: recurrent models take long for each token, however small they are."""
CHECKED: Final = 600
"""Prompts up to this length are computed without what follows them, too."""
UNLIKE: Final = 1e-3
"""Logits that differ by more than this share of their deviation are others, and not rounded."""
FREE: Final = 3
"""So many of the plain lengths are compared whatever they cost."""


class Pictured(NamedTuple):
    """A prompt with the placeholders of images, these, and what the source calls them."""

    ids: np.ndarray
    pictures: tuple[np.ndarray, ...]
    inputs: dict[str, Any]


def write_sample(
    model: Any,
    vocabulary: int,
    most: int,
    path: Path,
    *,
    without: int | None = None,
    pictured: Sequence[Pictured] = (),
) -> None:
    """Seeded prompts of a model with the context `most`, and the source's answers to them.

    The token `without` is in none of them but those that are `pictured`. Raises ModelRefused for a
    model whose numbers are none.
    """
    tokens = np.array([token for token in range(vocabulary) if token != without])
    rng = np.random.default_rng(SEED)
    config = model.config.get_text_config()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    spent, read = 0.0, 0
    made: list[Reference] = []
    left_out: list[str] = []
    for number, (length, why) in enumerate(_lengths(config, most)):
        cost = _flop(config, parameters, length)
        if number >= FREE and (spent + cost > BUDGET_FLOP or read + length > BUDGET_TOKENS):
            left_out.append(f"{length} tokens ({why})")
            continue
        spent, read = spent + cost, read + length
        rows = min(ROWS, most - length + 1)
        made.append(_reference(model, tokens[rng.integers(0, len(tokens), length)], rows))
    made += [_reference(model, each.ids, ROWS, each) for each in pictured]
    notes = []
    if left_out:
        notes.append(
            f"Not compared with the source, as it would take more than {BUDGET_FLOP:.0e} "
            f"operations or {BUDGET_TOKENS} tokens: prompts of {', '.join(left_out)}."
        )
    references.write(path, made, notes)


def _lengths(config: Any, most: int) -> Iterator[tuple[int, str]]:
    """Lengths of prompts and what each is for, in the order of their worth."""
    told: set[int] = set()
    for length, why in _wanted(config, most):
        if 1 <= length <= max(1, most - ROWS + 1) and length not in told:
            told.add(length)
            yield length, why


def _wanted(config: Any, most: int) -> Iterator[tuple[int, str]]:
    for length in PLAIN:
        yield length, "a plain one"
    found = boundaries(config.to_dict(), most)
    found.setdefault(PIECE, "the pieces in which engines read")
    for place, name in sorted(found.items()):
        yield place + BEYOND, f"beyond {name}"
        yield place - BEFORE, f"across {name}"
    yield most - ROWS + 1, "the whole context"


def boundaries(config: dict[str, Any], most: int) -> dict[int, str]:
    """Lengths below `most` at which a model of this config may compute differently, and why."""
    found: dict[int, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            for place, name in boundaries(value, most).items():
                found.setdefault(place, name)
        elif (
            type(value) is int
            and BOUNDARY.search(key)
            and 1 < value < most
            and (
                "layers" not in key  # how many have a window, not how long it is
            )
        ):
            found.setdefault(value, f"{key} {value}")
    return found


def _flop(config: Any, parameters: int, length: int) -> float:
    """What a prompt costs: it is read twice, and its answer is written."""
    width = int(getattr(config, "hidden_size", 0) or 0)
    layers = int(getattr(config, "num_hidden_layers", 0) or 0)
    once = 2.0 * parameters * (length + ROWS) + 2.0 * layers * width * (length + ROWS) ** 2
    return 2 * once


def _reference(
    model: Any, prompt: np.ndarray, rows: int, pictured: Pictured | None = None
) -> Reference:
    """The source's answer to a prompt, with all of it computed anew at each place."""
    import torch

    inputs = {} if pictured is None else pictured.inputs
    ids = _greedy(model, torch.from_numpy(prompt)[None], rows - 1, inputs)
    more = dict(inputs)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        more["logits_to_keep"] = rows
    with torch.inference_mode():
        logits = model(input_ids=ids, **more).logits[0, -rows:].float()
        if len(prompt) <= CHECKED:
            _check_causal(model, ids[:, : len(prompt)], logits[0], inputs)
    logprobs = logits.log_softmax(-1).nan_to_num(nan=torch.nan, neginf=-1e30)
    if not bool(logprobs.isfinite().all()):
        raise ModelRefused(
            f"{type(model).__name__} computes something that is no number for a prompt of "
            f"{len(prompt)} tokens.",
            hint="Its weights may be damaged: copy or download the checkpoint again.",
        )
    best = logprobs.topk(min(TOP, logprobs.shape[-1]))
    likely = logprobs[logprobs > -1e4]
    return Reference(
        ids[0].numpy(),
        best.indices.numpy(),
        best.values.numpy(),
        float(likely.std()) if len(likely) > 1 else 1.0,
        () if pictured is None else pictured.pictures,
    )


def _check_causal(model: Any, prompt: Any, told: Any, inputs: dict[str, Any]) -> None:
    """Raise ModelRefused where what a prompt says depends on what comes after it.

    `told` are the logits of its last token with more tokens after it.
    """
    alone = model(input_ids=prompt, **inputs).logits[0, -1].float()
    if float((alone - told).abs().max()) > UNLIKE * float(told.std()):
        raise ModelRefused(
            f"transformers' own {type(model).__name__} contradicts itself: what it says after "
            f"{prompt.shape[1]} tokens depends on the tokens that come after them. So no answer of "
            "an engine could be told right or wrong.",
            hint="Serve it with the software that it was made for, and connect that: "
            "`lmaas models connect` takes any OpenAI-compatible service.",
        )


def _greedy(model: Any, prompt: Any, count: int, inputs: dict[str, Any]) -> Any:
    """The prompt (1, L) and `count` greedy tokens.

    Only what is compared is taken from here, not what is right: any tokens will do.
    """
    import torch
    from transformers import GenerationConfig

    if not count:
        return prompt
    how = GenerationConfig(
        max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
    )
    with torch.inference_mode():
        try:
            made = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=how,
                **inputs,
            )
        except Exception:  # noqa: BLE001 - an architecture whose cache is broken
            made = prompt
    short = prompt.shape[1] + count - made.shape[1]
    return torch.cat([made, made[:, -1:].expand(1, short)], dim=1) if short else made
