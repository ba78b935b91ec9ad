"""One request: what is asked for, in which languages, and how each sentence is to be written."""

from collections.abc import Mapping
from typing import Any, Final, NoReturn

import msgspec

from lmaas.codecs import json
from lmaas.errors import InvalidInput, PayloadTooLarge
from lmaas.runtime.sequence.calls import Decoding
from lmaas.tasks.text_layout import TextLayout
from lmaas.tasks.translation import languages
from lmaas.tasks.translation.spec import GenerateParameters, Parameters
from lmaas.types import SequenceSpec

MAX_CHARS: Final = 1 << 18
"""Of all texts of a request together."""
MAX_TEXTS: Final = 2048
SAMPLING: Final = ("temperature", "top_p", "top_k", "seed")
BEAMS: Final = ("length_penalty", "early_stopping", "num_return_sequences")


class Call(msgspec.Struct, forbid_unknown_fields=True):
    """The Hugging Face request."""

    inputs: Any
    parameters: Parameters | None = None


class Request(msgspec.Struct, frozen=True):
    """Texts, `single` where one came alone, and what is asked of them."""

    texts: tuple[str, ...]
    single: bool
    parameters: Parameters


def read(body: bytes) -> Request:
    """The request in a JSON body. Raises InvalidInput, PayloadTooLarge."""
    call = json.read(body, Call)
    single = isinstance(call.inputs, str)
    texts = [call.inputs] if single else call.inputs
    if not isinstance(texts, list) or not texts:
        raise InvalidInput("inputs must be a text or a list of texts, not empty.", param="inputs")
    if len(texts) > MAX_TEXTS:
        raise InvalidInput(
            f"inputs has {len(texts)} texts; at most {MAX_TEXTS} are taken at once.", param="inputs"
        )
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            told = type(text).__name__
            raise InvalidInput(f"inputs[{index}] must be a text; received {told}.", param="inputs")
    if not any(texts):
        raise InvalidInput("inputs is empty: there is nothing to translate.", param="inputs")
    size = sum(map(len, texts))
    if size > MAX_CHARS:
        raise PayloadTooLarge(
            f"inputs has {size} characters; at most {MAX_CHARS} are translated at once.",
            hint="Send a long document in parts.",
            param="inputs",
        )
    parameters = call.parameters or Parameters()
    if parameters.truncation not in (None, False, "do_not_truncate"):
        raise InvalidInput(
            f"truncation {parameters.truncation!r} is not honoured: nothing is left out. A long "
            "text is cut at its sentences, and each is translated.",
            hint='Leave it out, or send "do_not_truncate".',
            param="truncation",
        )
    return Request(tuple(texts), single, parameters)


class Direction(msgspec.Struct, frozen=True):
    """What stands around each source, and how each answer begins."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    start: tuple[int, ...]
    prefix: str = ""


def direction(request: Request, layout: TextLayout, spec: SequenceSpec) -> Direction:
    """How the request's languages are said to the model.

    Raises InvalidInput for an unknown language, for one without the other, and where the model must
    be told.
    """
    source, target = request.parameters.src_lang, request.parameters.tgt_lang
    if (source is None) != (target is None):
        given, missing = (
            ("src_lang", "tgt_lang") if source is not None else ("tgt_lang", "src_lang")
        )
        raise InvalidInput(
            f"{given} is given and {missing} is not.",
            hint="Give both, or neither where the model knows one direction only.",
            param=missing,
        )
    if spec.languages:
        return _by_token(source, target, layout, spec)
    if layout.prompts:
        return _by_prompt(request, source, target, layout, spec)
    if source is not None and target is not None:
        if layout.pair is None:
            raise InvalidInput(
                "The model does not say which languages it translates between.",
                hint="Leave src_lang and tgt_lang out.",
                param="src_lang",
            )
        for code, own, param in zip(
            (source, target), layout.pair, ("src_lang", "tgt_lang"), strict=True
        ):
            if languages.resolve(code, (own,)) is None:
                raise InvalidInput(
                    f"The model translates from {layout.pair[0]} to {layout.pair[1]}; received "
                    f"{param} {code[:40]!r}.",
                    param=param,
                )
    return Direction(layout.before, layout.after, spec.start)


def _by_token(
    source: str | None, target: str | None, layout: TextLayout, spec: SequenceSpec
) -> Direction:
    if source is None or target is None:
        known = ", ".join(list(spec.languages)[: languages.SHOWN])
        raise InvalidInput(
            "The model translates between many languages: it must be told which.",
            hint=f"Give src_lang and tgt_lang; known are {known}.",
            param="src_lang",
        )
    read = spec.languages[languages.require(source, spec.languages, "src_lang")]
    written = spec.languages[languages.require(target, spec.languages, "tgt_lang")]

    def filled(ids: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(read if index < 0 else index for index in ids)

    start = {
        "none": spec.start,
        "after-start": (*spec.start, written),
        "is-start": (written,),
    }[layout.target]
    return Direction(filled(layout.before), filled(layout.after), start)


def _by_prompt(
    request: Request, source: str | None, target: str | None, layout: TextLayout, spec: SequenceSpec
) -> Direction:
    prompts = {
        (prompt.source, prompt.target): prompt.prefix
        for prompt in layout.prompts.values()
        if prompt.source is not None and prompt.target is not None
    }
    if source is not None and target is not None:
        for (own, other), prefix in prompts.items():
            if languages.resolve(source, (own,)) and languages.resolve(target, (other,)):
                return Direction(layout.before, layout.after, spec.start, prefix)
        raise InvalidInput(
            f"The model does not translate from {source[:40]!r} to {target[:40]!r}; it translates "
            f"{_listed(prompts)}.",
            param="src_lang",
        )
    told = [prefix for prefix in prompts.values() if request.texts[0].startswith(prefix)]
    if told and all(text.startswith(told[0]) for text in request.texts):
        # The caller has written the words himself: they go before every sentence.
        return Direction(layout.before, layout.after, spec.start, told[0])
    if len(prompts) == 1:
        return Direction(layout.before, layout.after, spec.start, next(iter(prompts.values())))
    raise InvalidInput(
        "The model must be told which languages it is to translate between.",
        hint=f"Give src_lang and tgt_lang; known are {_listed(prompts)}." if prompts else None,
        param="src_lang",
    )


def _listed(prompts: Mapping[tuple[str, str], str]) -> str:
    return ", ".join(f"{own} to {other}" for own, other in prompts)


def decoding(request: Request, spec: SequenceSpec, start: tuple[int, ...]) -> Decoding:
    """How each sentence is written. Raises InvalidInput for what cannot be honoured."""
    given = request.parameters.generate_parameters or GenerateParameters()
    samples = given.do_sample
    if samples is None:
        samples = bool(given.temperature)
    beams = given.num_beams or (1 if samples else spec.beams)
    if samples and beams > 1:
        _refuse("num_beams", f"is {beams}; sampling writes with one beam")
    if samples and given.temperature == 0:
        _refuse("temperature", "is 0, which does not sample; leave do_sample out")
    for name in SAMPLING:
        if not samples and getattr(given, name) not in (None, 0 if name == "temperature" else None):
            _refuse(name, "is for sampling; set do_sample to true")
    for name in BEAMS:
        unread = getattr(given, name) not in (None, 1 if name == "num_return_sequences" else None)
        if beams == 1 and unread and not (samples and name == "num_return_sequences"):
            _refuse(name, "ranks the candidates of several beams; set num_beams to 2 or more")
    returned = given.num_return_sequences or 1
    if samples and returned > 1:
        _refuse("num_return_sequences", "needs num_beams; sampling gives one text")
    if returned > beams:
        _refuse("num_return_sequences", f"is {returned}, more than num_beams, which is {beams}")
    most = _most_tokens(given, spec)
    least = spec.least_target if given.min_new_tokens is None else 1 + given.min_new_tokens
    if given.min_new_tokens is not None and least > most:
        _refuse("min_new_tokens", f"is {given.min_new_tokens}, more than the model may write")
    return Decoding(
        prompt=start,
        counted=len(start) - 1,
        max_tokens=most,
        min_tokens=min(least, most),
        beams=beams,
        returned=returned,
        temperature=(1.0 if given.temperature is None else given.temperature) if samples else 0.0,
        top_p=1.0 if given.top_p is None else given.top_p,
        top_k=given.top_k or 0,
        seed=given.seed,
        length_penalty=(
            spec.length_penalty if given.length_penalty is None else given.length_penalty
        ),
        early_stop=(
            beams > 1 and spec.early_stop if given.early_stopping is None else given.early_stopping
        ),
        repetition_penalty=(1.0 if given.repetition_penalty is None else given.repetition_penalty),
        no_repeat_ngram=(
            spec.no_repeat_ngram
            if given.no_repeat_ngram_size is None
            else given.no_repeat_ngram_size
        ),
        forced_last=spec.forced_last,
        suppressed=spec.suppressed,
        suppressed_first=spec.suppressed_first,
        stop_token_ids=spec.stop_token_ids,
    )


def _most_tokens(given: GenerateParameters, spec: SequenceSpec) -> int:
    if given.max_length is not None and given.max_new_tokens is not None:
        _refuse("max_length", "and max_new_tokens say the same: give one")
    most, name = spec.most_target, "max_new_tokens"
    if given.max_new_tokens is not None:
        most = 1 + given.max_new_tokens  # the first token of all is none of them
    elif given.max_length is not None:
        most, name = given.max_length, "max_length"
    if most > spec.most_target:
        _refuse(name, f"is more than the model writes, which is {spec.most_target} tokens")
    return most


def _refuse(name: str, why: str) -> NoReturn:
    raise InvalidInput(f"generate_parameters.{name} {why}.", param=f"generate_parameters.{name}")
