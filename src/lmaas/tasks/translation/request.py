"""One request: what is asked for, in which languages, and how each sentence is to be written."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from lmaas.codecs import json
from lmaas.errors import InvalidInput, PayloadTooLarge
from lmaas.runtime.sequence.calls import Decoding
from lmaas.tasks.sequence_decoding import decoding_of, refuse
from lmaas.tasks.text_layout import TextLayout
from lmaas.tasks.translation import languages
from lmaas.tasks.translation.spec import GenerateParameters, Parameters
from lmaas.types import SequenceSpec

MAX_CHARS: Final = 1 << 18
"""Of all texts of a request together."""
MAX_TEXTS: Final = 2048
TAG: Final = re.compile(r">>[\w-]{2,20}<< ?")


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


def tag_of(request: Request) -> str:
    """A target language that callers write before their texts (">>deu<< "), as Marian's models of
    many have it: it goes before every sentence. "" where not all texts have the same one.
    """
    found = [TAG.match(text) for text in request.texts]
    tags = {match.group() if match else "" for match in found}
    return tags.pop() if len(tags) == 1 else ""


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
    if given.max_length is None and given.max_new_tokens is None:
        # Checkpoints tell a usual length, at which a translation would end unfinished.
        given = msgspec.structs.replace(given, max_length=spec.most_target)
    told = decoding_of(given, spec)
    returned = given.num_return_sequences or 1
    if told.temperature == 0 and returned > told.beams:
        refuse("num_return_sequences", f"it is more than num_beams, which is {told.beams}")
    return msgspec.structs.replace(told, prompt=start, counted=len(start) - 1, returned=returned)
