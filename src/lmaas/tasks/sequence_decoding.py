"""From what a caller asks of an answer to how sequences are decoded, and having them written."""

from collections.abc import Generator, Sequence
from typing import Final, NoReturn, TypeVar

from lmaas.errors import InvalidInput
from lmaas.runtime.sequence.calls import (
    Decoding,
    SequenceCall,
    SequencePiece,
    SequenceResult,
    Turn,
)
from lmaas.tasks.generate_parameters import GenerateParameters
from lmaas.types import SequenceSpec

SAMPLING: Final = ("temperature", "top_p", "top_k", "seed")
BEAMS: Final = ("length_penalty", "early_stopping")
T = TypeVar("T")


def decoding_of(asked: GenerateParameters, spec: SequenceSpec) -> Decoding:
    """How answers are written; what is left out is the checkpoint's own.

    Raises InvalidInput for what does not go together, by name.
    """
    drawn = asked.do_sample or (asked.do_sample is None and asked.temperature is not None)
    for name in () if drawn else SAMPLING:
        if getattr(asked, name) is not None:
            refuse(name, "it needs do_sample true")
    beams = 1 if drawn and asked.num_beams is None else asked.num_beams or spec.beams
    if drawn and beams > 1:
        refuse("num_beams", "beams are searched without chance; leave do_sample out")
    for name in () if beams > 1 else BEAMS:
        if getattr(asked, name) is not None:
            refuse(name, "it needs num_beams above 1")
    if asked.max_length is not None and asked.max_new_tokens is not None:
        refuse("max_new_tokens", "max_length is given too")
    most = asked.max_length or spec.usual_target or spec.most_target
    if asked.max_new_tokens is not None:
        most = len(spec.start) + asked.max_new_tokens
    if not len(spec.start) < most <= spec.most_target:
        raise InvalidInput(
            f"An answer of {most} tokens is asked for; the model writes at most "
            f"{spec.most_target}.",
            param="generate_parameters",
        )
    return Decoding(
        prompt=spec.start,
        counted=len(spec.start) - 1,
        max_tokens=most,
        min_tokens=_or(asked.min_length, min(spec.least_target, most - 1)),
        beams=beams,
        length_penalty=_or(asked.length_penalty, spec.length_penalty),
        early_stop=_or(asked.early_stopping, spec.early_stop),
        temperature=(asked.temperature or 1.0) if drawn else 0.0,
        top_p=_or(asked.top_p, 1.0),
        top_k=asked.top_k or 0,
        seed=asked.seed,
        repetition_penalty=asked.repetition_penalty or 1.0,
        no_repeat_ngram=_or(asked.no_repeat_ngram_size, spec.no_repeat_ngram),
        forced_last=spec.forced_last,
        suppressed=spec.suppressed,
        suppressed_first=spec.suppressed_first,
        stop_token_ids=spec.stop_token_ids,
    )


def write_all(
    calls: Sequence[SequenceCall],
) -> Generator[Turn, SequenceResult | SequencePiece | None, list[SequenceResult]]:
    """Have `calls`, tagged with their numbers, written together; the results in their order.

    Raises what one failed with.
    """
    results: dict[int, SequenceResult] = {}
    event = yield Turn(calls=calls)
    while True:
        assert isinstance(event, SequenceResult)
        if event.error is not None:
            raise event.error
        results[event.tag] = event
        if len(results) == len(calls):
            return [results[call.tag] for call in calls]
        event = yield Turn()


def refuse(name: str, why: str) -> NoReturn:
    """Raise InvalidInput for a parameter that cannot be honoured."""
    raise InvalidInput(f"{name} cannot be honoured: {why}.", param=name)


def _or(asked: T | None, usual: T) -> T:
    return usual if asked is None else asked
