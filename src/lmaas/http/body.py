"""JSON bodies as records: an error names the field; what is known but not served is refused.

Knows no protocol. Lone surrogates, NaN and Infinity are no JSON and end here.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from lmaas.errors import InvalidInput
from lmaas.http.exchange import Exchange
from lmaas.service import Service

T = TypeVar("T")
_PLACE = re.compile(r"\A(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>.*)`)?\Z", re.DOTALL)
_FIELD = re.compile(r"\AObject (?P<how>contains unknown|missing required) field `(?P<name>.*)`\Z")
LISTED = "GET /openapi.json lists what is taken."
MAX_SHOWN = 100
MAX_BODY_BYTES: Final = 8 << 20
"""Largest body of a request in text, so that none holds up the others while it is read."""
MAX_TURNS: Final = 16_384
"""So many turns, or parts of them, a conversation has at most."""
MAX_METADATA = 16
"""So many pairs a request's metadata has at most."""


async def read(service: Service, exchange: Exchange, decoder: "msgspec.json.Decoder[T]") -> T:
    """The request's body as the decoder's type. Raises InvalidInput, PayloadTooLarge."""
    limit_bytes = min(service.settings.max_body_bytes, MAX_BODY_BYTES)
    return decode(await exchange.body(limit_bytes), decoder)


def decode(body: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """`body` as the decoder's type. Raises InvalidInput whose `param` is the wrong field."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _wrong(str(error)) from None
    except RecursionError:
        raise InvalidInput("The JSON body is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"The body is not valid JSON: {error}.",
            hint="NaN, Infinity and lone surrogates are no JSON.",
        ) from None


def _wrong(text: str) -> InvalidInput:
    place = _PLACE.match(text)
    assert place is not None, "the pattern matches every text"
    what, path = place["what"], (place["path"] or "")[:MAX_SHOWN]
    field = _FIELD.match(what)
    if field is None:
        hint = LISTED if what.startswith("Invalid enum value") else None
        text = f"{path or 'The body'}: {what[:300]}."
        return InvalidInput(text, hint=hint, param=path or None)
    name = field["name"][:MAX_SHOWN]
    param = f"{path}.{name}" if path else name
    if field["how"] == "missing required":
        return InvalidInput(f"The field {param} is missing.", param=param)
    return InvalidInput(f"Unknown field {param}.", hint=LISTED, param=param)


def refuse(body: msgspec.Struct, neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse each field of `neutral` whose value is not among its neutral ones."""
    for name, values in neutral.items():
        value = getattr(body, name)
        if value not in values:
            told = [value for value in values if value is not None]
            raise InvalidInput(
                f"{name} is not supported.",
                hint=f"Leave it out, or send {' or '.join(map(repr, told))}."
                if told
                else "Leave it out.",
                param=name,
            )


def check_metadata(metadata: Mapping[str, str] | None) -> None:
    """Bound what a caller says of its own request. Raises InvalidInput."""
    if metadata is None:
        return
    if len(metadata) > MAX_METADATA:
        raise InvalidInput(f"metadata has at most {MAX_METADATA} pairs.", param="metadata")
    for name, value in metadata.items():
        if len(name) > 64 or len(value) > 512:
            raise InvalidInput(
                "A name in metadata has at most 64 characters, a value 512.", param="metadata"
            )


def model_of(named: str | None, path: Mapping[str, str]) -> str:
    """Which model is asked for: what the path says, else the body. Raises InvalidInput."""
    ref = path.get("ref")
    if ref is None:
        if not named:
            raise InvalidInput(
                "The field model is missing.", hint="GET /v1/models lists them.", param="model"
            )
        return named
    if named not in (None, "", "dummy", "tgi", ref):
        raise InvalidInput(
            f"The path names the model {ref!r}, the body another.",
            hint="Leave out the field model.",
            param="model",
        )
    return ref
