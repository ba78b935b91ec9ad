"""Images of faces as requests carry them: a file, a form with files, or base64 in JSON.

Nothing is decoded here: a model's worker does that.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from lmaas.errors import InvalidInput
from lmaas.http.body import decode
from lmaas.http.exchange import Exchange
from lmaas.http.form import OVERHEAD_BYTES, MemoryForm
from lmaas.http.huggingface import media_type_of
from lmaas.http.upload import receive
from lmaas.service import Service
from lmaas.service.face_rules import Asked, Picture
from lmaas.types import JSON

FORM: Final = b"multipart/form-data"
MOST_FACES: Final = 100
_texts = msgspec.json.Decoder(dict[str, Any])


async def pictures(
    service: Service, exchange: Exchange, names: Sequence[str]
) -> tuple[Picture, ...]:
    """The images called `names`, of a form or of JSON; a body that is neither is the first one.

    Raises InvalidInput, PayloadTooLarge.
    """
    most = service.settings.max_body_bytes
    kind = exchange.headers.get(b"content-type", b"")
    if kind.strip().lower().startswith(FORM):
        form = MemoryForm(kind, (), names, most)
        await receive(exchange, form, most + OVERHEAD_BYTES)
        files = form.result().files
        return tuple(_filled(Picture(files[name]), name) for name in names)
    body = await exchange.body(most)
    if media_type_of(exchange.headers, body) == JSON:
        given = await service.read(decode, body, _texts)
        for name in given:
            if name not in names:
                raise InvalidInput(
                    f"Unknown field {name[:100]}.",
                    hint=f"Known are {', '.join(names)}, each an image as base64.",
                    param=name[:100],
                )
        for name in names:
            if not isinstance(given.get(name), str):
                what = "must be an image as base64" if name in given else "is missing"
                raise InvalidInput(f"The field {name} {what}.", param=name)
        return tuple(_filled(Picture(given[name]), name) for name in names)
    if len(names) > 1:
        raise InvalidInput(
            f"Send {' and '.join(names)} as files of a form, or as base64 in JSON.", param=names[0]
        )
    return (_filled(Picture(body), names[0]),)


def _filled(picture: Picture, name: str) -> Picture:
    if not picture.content:
        raise InvalidInput("The image is empty.", param=name)
    return picture


def share(exchange: Exchange, name: str) -> float | None:
    """A query parameter that is a number from 0 to 1."""
    text = exchange.query.get(name)
    if text is None or text == "":
        return None
    try:
        # Plain digits: `float` would take "1_0", "inf" and blanks too.
        if len(text) > 30 or set(text) - set("0123456789.-+eE"):
            raise ValueError
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InvalidInput(f"{name} is a number from 0 to 1; received {text[:50]!a}.", param=name)
    return value


def count(exchange: Exchange, name: str, default: int, most: int, *, least: int = 0) -> int:
    """A query parameter that is a whole number within bounds."""
    text = exchange.query.get(name, "") or str(default)
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if not least <= value <= most:
        raise InvalidInput(
            f"{name} is a whole number from {least} to {most}; received {text[:50]!a}.", param=name
        )
    return value


def asked(exchange: Exchange, threshold: str, endpoint: str) -> Asked:
    """How the image of a request is to be looked at; a `limit` of 0 is none."""
    limit = count(exchange, "limit", 0, MOST_FACES)
    return Asked(
        request_id=exchange.id,
        endpoint=endpoint,
        threshold=share(exchange, threshold),
        limit=limit or None,
    )


def told(exchange: Exchange, model: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Note in the answer's head which version looked, and what is left of the limits."""
    exchange.model = model
    exchange.extra += headers
    exchange.extra.append((b"x-lmaas-model", model.encode()))
