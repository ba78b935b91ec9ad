"""Translation for callers who name languages and no model: which model that is, and what it says.

Of the models that translate a pair, one made for it goes before one of many languages, and among
equals the one that was registered last.
"""

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from lmaas.errors import InvalidInput, ModelNotFound
from lmaas.service.service import Service
from lmaas.tasks.translation import languages
from lmaas.tasks.translation.identify import Guess, Identifier
from lmaas.types import JSON, KeyRecord, ModelVersion, Payload

TASK: Final = "translation"
AUTO: Final = "auto"
LOOKED_AT: Final = 20
"""Of many texts so many tell the language of all."""
HINT: Final = "Push a translation model, or train one: `lmaas push PATH`, `lmaas train`."
Directions = dict[str, set[str]]
"""Codes of languages as callers know them, and those that each is translated into."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Texts to be translated from `source` (a code, or "auto") into `target`.

    `alternatives` are further translations of each text. `model` None: see `choose`.
    """

    texts: tuple[str, ...]
    single: bool
    source: str
    target: str
    html: bool = False
    alternatives: int = 0
    model: str | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The best translation of each text, and the others, best first; `detected` where asked for."""

    version: ModelVersion
    texts: list[str]
    alternatives: list[list[str]]
    detected: Guess | None
    headers: list[tuple[bytes, bytes]]


async def translate(service: Service, key: KeyRecord, wanted: Wanted, *, request_id: str) -> Told:
    """Translate. Raises InvalidInput for languages that no model has, ModelNotFound."""
    if wanted.model is None:
        versions = await translators(service, key.tenant)
        if not versions:
            raise ModelNotFound("No translation model is registered.", hint=HINT)
    else:
        version = await service.find(key.tenant, wanted.model)
        if version.manifest.task != TASK:
            raise InvalidInput(
                f"{version.ref} is a model for {version.manifest.task}; /translate needs one for "
                f"{TASK}.",
                param="model",
            )
        versions = [version]
    source, detected = wanted.source, None
    if source == AUTO:
        detected = await _detected(wanted, versions)
        source = detected.language
    if wanted.model is None:
        version = choose(versions, source, wanted.target)
    payload = Payload(media_type=JSON, body=_body(wanted, source, version))
    version, answer, headers = await service.calls.predict(
        key,
        wanted.model or version.ref,
        payload,
        endpoint="translate",
        request_id=request_id,
        version=version,
    )
    ranked = _ranked(json.loads(answer.body), wanted)
    return Told(
        version=version,
        texts=[several[0] for several in ranked],
        alternatives=[several[1:] for several in ranked],
        detected=detected,
        headers=headers,
    )


async def detect(text: str) -> list[Guess]:
    """The likeliest languages of a text, best first. Raises InvalidInput without a letter."""
    found = await asyncio.to_thread(lambda: Identifier.load().identify(text))
    if not found:
        raise InvalidInput("The text has no letters that would tell its language.", param="q")
    return found


async def translators(service: Service, tenant: str) -> list[ModelVersion]:
    """The latest version of each translation model."""
    known = await service.read(service.catalog.latest, tenant)
    return [version for version in known if version.manifest.task == TASK]


def choose(versions: Sequence[ModelVersion], source: str, target: str) -> ModelVersion:
    """The version that translates a pair. Raises InvalidInput listing what is translated."""
    dedicated, many = [], []
    for version in versions:
        spec = version.manifest.signature.sequence
        assert spec is not None
        if all(languages.resolve(code, spec.languages) for code in (source, target)):
            many.append(version)
        elif any(
            languages.resolve(source, (own,)) and languages.resolve(target, (other,))
            for own, other in spec.directions
        ):
            dedicated.append(version)
    found = dedicated or many
    if not found:
        raise _unknown(versions, source, target)
    return max(found, key=lambda version: (version.created_at, version.ref))


def directions(versions: Iterable[ModelVersion]) -> Directions:
    """What all versions translate, by codes as callers know them."""
    found: Directions = {}
    for version in versions:
        spec = version.manifest.signature.sequence
        assert spec is not None
        shown = {code: shown_as(code, spec.languages) for code in spec.languages}
        for code in shown.values():
            found.setdefault(code, set()).update(shown.values())
        for own, other in spec.directions:
            found.setdefault(shown_as(own, ()), set()).add(shown_as(other, ()))
    return found


def name_of(code: str) -> str:
    """The English name of a language; its code where none is known."""
    return Identifier.load().name(code) or code


def shown_as(code: str, known: Iterable[str]) -> str:
    """A model's own code as callers know it: two letters, and a script where it needs one."""
    plain = languages.short(code)
    script = languages.script(code)
    if script is None or languages.resolve(plain, known) in (code, None):
        return plain
    return f"{plain}-{script}"


def _unknown(versions: Sequence[ModelVersion], source: str, target: str) -> InvalidInput:
    known = directions(versions)
    targets = sorted({code for of in known.values() for code in of})
    for code, among, param in ((source, sorted(known), "source"), (target, targets, "target")):
        if languages.resolve(code, among) is None:
            return InvalidInput(
                f"{code[:40]!r} is no language that is translated "
                f"{'from' if param == 'source' else 'into'}; those are "
                f"{', '.join(among[: languages.SHOWN]) or 'none'}.",
                hint="GET /languages lists all pairs.",
                param=param,
            )
    own = languages.resolve(source, known)
    others = ", ".join(sorted(known.get(own or "", ()))[: languages.SHOWN])
    return InvalidInput(
        f"No model translates from {source!r} to {target!r}; from there, texts are translated into "
        f"{others}.",
        hint="GET /languages lists all pairs.",
        param="target",
    )


async def _detected(wanted: Wanted, versions: Sequence[ModelVersion]) -> Guess:
    """The language of the texts, among those that are translated into the target."""
    known = directions(versions)
    sources = {code for code, others in known.items() if languages.resolve(wanted.target, others)}
    text = "\n".join(wanted.texts[:LOOKED_AT])
    found = await asyncio.to_thread(lambda: Identifier.load().identify(text, among=sources))
    if not found:
        raise InvalidInput(
            "The language of the text is not told: it has no letters, or none of its likely "
            "languages is translated into the target.",
            hint="Name the source language.",
            param="source",
        )
    return found[0]


def _body(wanted: Wanted, source: str, version: ModelVersion) -> bytes:
    parameters: dict[str, Any] = {"src_lang": source, "tgt_lang": wanted.target}
    if wanted.html:
        parameters["format"] = "html"
    if wanted.alternatives:
        spec = version.manifest.signature.sequence
        assert spec is not None
        count = wanted.alternatives + 1
        parameters["generate_parameters"] = {
            "num_beams": max(count, spec.beams),
            "num_return_sequences": count,
        }
    inputs = wanted.texts[0] if wanted.single else wanted.texts
    return msgspec.json.encode({"inputs": inputs, "parameters": parameters})


def _ranked(answer: Any, wanted: Wanted) -> list[list[str]]:
    """The candidates of each text, best first, none of them twice."""
    if not wanted.alternatives:
        return [[each["translation_text"]] for each in answer]
    rows = [answer] if wanted.single else answer
    return [list(dict.fromkeys(each["translation_text"] for each in row)) for row in rows]
