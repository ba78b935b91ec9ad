"""Child entry: from a checkpoint of a run to a package. Run by `placement.sandbox` only."""

from pathlib import Path
from typing import Any

import msgspec

from lmaas.recipe import recipe_of
from lmaas.training import run as runs
from lmaas.types import Record


class ExportRequest(Record, frozen=True, kw_only=True):
    """The checkpoint in `folder`, of the job `job`, becomes the package `folder`/result.

    `recipe` is the resolved one, with the new model's name; `base` as the run had it.
    """

    folder: str
    recipe: dict[str, Any]
    job: str
    base: str | None = None


def run(body: bytes) -> bytes:
    """Package one checkpoint. Raises InvalidInput for data that are not what they were."""
    request = msgspec.json.decode(body, type=ExportRequest)
    base = None if request.base is None else Path(request.base)
    runs.export(recipe_of(request.recipe), Path(request.folder), request.job, base=base)
    return b"{}"
