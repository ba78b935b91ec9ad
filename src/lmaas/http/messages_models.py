"""The models as Anthropic's clients list them: in pages, in the order of their names."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

from lmaas.errors import InvalidInput
from lmaas.types import ModelVersion, Record

PAGE: Final = 20
MAX_PAGE: Final = 1000
QUERY: Final = ("limit", "after_id", "before_id")


class ModelInfo(Record, frozen=True, kw_only=True):
    """A model as Anthropic's API shows it; `created_at` is a date of RFC 3339."""

    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int | None = None


class ModelPage(Record, frozen=True, kw_only=True):
    """Some of the models, in the order of their names."""

    data: list[ModelInfo]
    has_more: bool
    first_id: str | None
    last_id: str | None


def page(versions: Sequence[ModelVersion], query: Mapping[str, str]) -> ModelPage:
    """The models after `after_id`, or before `before_id`. Raises InvalidInput."""
    text = query.get("limit", str(PAGE))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_PAGE):
        raise InvalidInput(f"limit is a number from 1 to {MAX_PAGE}.", param="limit")
    limit = int(text)
    known = [show(version, version.name) for version in versions]
    after, before = query.get("after_id"), query.get("before_id")
    if before is not None:
        known = [model for model in known if model.id < before]
        shown = known[-limit:]
    else:
        known = [model for model in known if after is None or model.id > after]
        shown = known[:limit]
    return ModelPage(
        data=shown,
        has_more=len(shown) < len(known),
        first_id=shown[0].id if shown else None,
        last_id=shown[-1].id if shown else None,
    )


def show(version: ModelVersion, name: str) -> ModelInfo:
    """A version as a model of Anthropic's listing."""
    language = version.manifest.signature.language
    return ModelInfo(
        id=name,
        display_name=name,
        created_at=datetime.fromtimestamp(int(version.created_at), UTC).isoformat(),
        max_input_tokens=None if language is None else language.context_length,
    )
