"""LibreTranslate's routes: texts and two languages in, the translation out; which model, is found.

Bodies are JSON or URL-encoded forms, and may carry the key as `api_key`; so they are read, within
narrow bounds, before it is known who asks.
"""

from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from lmaas.errors import InvalidInput
from lmaas.http import body as bodies
from lmaas.http.exchange import Exchange
from lmaas.http.huggingface import media_type_of
from lmaas.service import Service, translation
from lmaas.service.translation import Wanted
from lmaas.types import JSON, UNREADABLE

BODY_BYTES: Final = 4 << 20
FIELDS: Final = 32
FORM: Final = "application/x-www-form-urlencoded"
MOST_ALTERNATIVES: Final = 15


class TranslateBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A request. `model` is ours: a name, where the one that is found for the pair is not wanted.

    `source` "auto": the language is told by the text. `alternatives`: so many further translations.
    """

    q: str | list[str]
    source: str
    target: str
    format: Literal["text", "html"] | None = None
    alternatives: Annotated[int, Meta(ge=0, le=MOST_ALTERNATIVES)] | None = None
    api_key: str | None = None
    model: str | None = None


class DetectBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text whose language is to be told."""

    q: str
    api_key: str | None = None


class Detected(msgspec.Struct, kw_only=True):
    """A language, and how sure that is, 0 to 100."""

    confidence: float
    language: str


class Translation(msgspec.Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """What was not asked for is left out; of a list of texts each field is a list."""

    translated_text: str | list[str]
    detected_language: Detected | list[Detected] | None = None
    alternatives: list[str | list[str]] | None = None


class Language(msgspec.Struct, kw_only=True):
    """A language and those that it is translated into."""

    code: str
    name: str
    targets: list[str]


_translate = msgspec.json.Decoder(TranslateBody)
_detect = msgspec.json.Decoder(DetectBody)


async def translate(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Translate a text or a list of texts, as LibreTranslate does."""
    request = await _read(exchange, _translate)
    single = isinstance(request.q, str)
    assert exchange.key is not None
    told = await translation.translate(
        service,
        exchange.key,
        Wanted(
            texts=(request.q,) if isinstance(request.q, str) else tuple(request.q),
            single=single,
            source=request.source,
            target=request.target,
            html=request.format == "html",
            alternatives=request.alternatives or 0,
            model=request.model,
        ),
        request_id=exchange.id,
    )
    exchange.extra += told.headers
    exchange.model = told.version.ref
    exchange.extra.append((b"x-lmaas-model", told.version.ref.encode()))
    answer = Translation(translated_text=told.texts[0] if single else told.texts)
    if told.detected is not None:
        found = Detected(confidence=told.detected.confidence, language=told.detected.language)
        answer.detected_language = found if single else [found] * len(told.texts)
    if request.alternatives:
        answer.alternatives = [*(told.alternatives[0] if single else told.alternatives)]
    exchange.send_json(answer)


async def detect(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Tell the language of a text, the likeliest first."""
    request = await _read(exchange, _detect)
    found = await translation.detect(request.q)
    exchange.send_json(
        [Detected(confidence=each.confidence, language=each.language) for each in found]
    )


async def languages(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The languages that are translated, and into which."""
    versions = await translation.translators(service, exchange.tenant)
    known = translation.directions(versions)
    exchange.send_json(
        [
            Language(code=code, name=translation.name_of(code), targets=sorted(known[code]))
            for code in sorted(known)
        ]
    )


async def key_in_body(service: Service, exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """The `api_key` of a body as a header would say it; none where there is none to be read.

    A body that is none is told by the handler, to who has a key.
    """
    exchange.kept = await exchange.body(BODY_BYTES)
    try:
        given = _fields(exchange, exchange.kept).get("api_key") if exchange.kept else None
    except (InvalidInput, *UNREADABLE):
        return []
    return [(b"x-api-key", given.encode())] if isinstance(given, str) and given else []


def _fields(exchange: Exchange, body: bytes) -> dict[str, Any]:
    """The fields of a body, none of them checked."""
    if media_type_of(exchange.headers, body) != FORM:
        fields = msgspec.json.decode(body)
        return fields if isinstance(fields, dict) else {}
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            max_num_fields=FIELDS,
            errors="strict",
        )
    except ValueError as error:
        raise InvalidInput(f"The body is no URL-encoded form: {error}.") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1)
        raise InvalidInput(f"The field {twice[:40]!r} is there twice.", param=twice[:40])
    return fields


async def _read(exchange: Exchange, decoder: "msgspec.json.Decoder[bodies.T]") -> bodies.T:
    """The body as a record. Raises InvalidInput naming the field that is wrong."""
    body = exchange.kept
    assert body is not None, "the key was looked for in it"
    kind = media_type_of(exchange.headers, body)
    if kind == FORM:
        fields = _fields(exchange, body)
        count = fields.get("alternatives")
        if isinstance(count, str) and count.isascii() and count.isdigit():
            fields["alternatives"] = int(count[:9])
        body = msgspec.json.encode(fields)
    elif kind not in (JSON, None) and body:
        raise InvalidInput(
            f"The body must be JSON or an URL-encoded form; received {kind}.",
            hint=f"Send it as {JSON} or {FORM}.",
        )
    return bodies.decode(body, decoder)
