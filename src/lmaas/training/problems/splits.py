"""The samples of a run: learned from, looked at while learning, and kept for the end."""

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from lmaas.data import splitting
from lmaas.data.reading import read
from lmaas.data.table import Table
from lmaas.errors import InvalidInput
from lmaas.job import JobEvent
from lmaas.recipe import Recipe
from lmaas.training.base import Split

EXAMPLES: Final = 5
"""How many places of an overlap are named."""


class SplitRows(msgspec.Struct, frozen=True):
    """Some samples of a table: their numbers in it."""

    table: Table
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


class Splits:
    """The three parts of a recipe's data, and what was found about them.

    `columns` maps each field of the task to the column that it is in; those in `content` tell
    samples apart. With `label`, a field, each class keeps its share when a part is drawn; with
    `apart` each class is whole in one part instead. Rows that
    have no label, or no number in the field `value`, are in no part; `notes` tell of them.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        fields: Sequence[str],
        content: Sequence[str] | None = None,
        label: str | None = None,
        value: str | None = None,
        apart: bool = False,
    ) -> None:
        encoding = recipe.data.encoding
        train = read(Path(recipe.data.train), folder / "data", encoding)
        self.columns = columns_of(recipe, train, fields)
        given = {
            split: read(Path(path), folder / "data", encoding)
            for split, path in (("validation", recipe.data.validation), ("test", recipe.data.test))
            if isinstance(path, str)
        }
        for split, table in given.items():
            for column in self.columns.values():
                table.require(column)
            refuse_same(split, table.digest, train.digest)
        self.notes: list[str] = []
        target = None if label is None and value is None else self.columns[label or value or ""]
        rows = self._usable(train, target, numbers=label is None)
        self._labeled, usable = rows, len(rows)
        keep = np.full(len(train), None, object)
        if label is not None:
            keep[rows] = train.labels(self.columns[label], rows)
        self.parts: dict[Split, SplitRows] = {}
        for number, split in enumerate(("test", "validation")):
            share = getattr(recipe.data, split) or 0.0
            if split in given:
                own = self._usable(given[split], target, numbers=label is None)
                part = SplitRows(given[split], own)
            else:
                # The shares are of all samples, so what is left must give a larger share.
                share = min(share * usable / len(rows), 0.9)
                labels = keep[rows].tolist() if label is not None else None
                draw = splitting.hold_out_groups if apart else splitting.hold_out
                kept, held = draw(len(rows), share, recipe.seed + number, labels)
                part = SplitRows(train, rows[held])
                rows = rows[kept]
            self.parts[split] = part  # type: ignore[index]
        self.parts["train"] = SplitRows(train, rows)
        self._content = [self.columns[f] for f in content or ()] or None

    def _usable(self, table: Table, target: str | None, *, numbers: bool) -> np.ndarray:
        """The rows with a target. Raises InvalidInput where there is none."""
        self.notes += table.notes
        if target is None:
            return np.arange(len(table))
        rows = table.labeled(target, numbers=numbers)
        if not len(rows):
            raise InvalidInput(f"{table.name}: no row has a value of {target!r}.", param="data")
        if missing := len(table) - len(rows):
            first = np.setdiff1d(np.arange(len(table)), rows)[:EXAMPLES].tolist()
            places = ", ".join(table.place(row).removeprefix(f"{table.name}, ") for row in first)
            self.notes.append(
                f"Rows of {table.name} passed over, since they have no value of {target!r}: "
                f"{missing} ({places}{' …' if missing > len(first) else ''})."
            )
        return rows

    @property
    def train(self) -> SplitRows:
        """The samples that are learned from."""
        return self.parts["train"]

    def labels(self, field: str) -> tuple[tuple[str, ...], dict[Split, np.ndarray]]:
        """The classes among all training data, and each part's class numbers.

        Raises InvalidInput for one class only, and for a label that is not learned.
        """
        column = self.columns[field]
        table = self.train.table
        found = splitting.classes(table.labels(column, self._labeled))
        parts: dict[Split, np.ndarray] = {}
        for split, part in self.parts.items():
            names = part.table.labels(column, part.rows)

            def place(index: int, part: SplitRows = part) -> str:
                return part.table.place(int(part.rows[index]))

            parts[split] = splitting.numbers_of(names, found, place)
        return found, parts

    def facts(self) -> dict[str, Any]:
        """The data's digest, sizes, and what of the held-out samples is learned from as well."""
        tables = {id(part.table): part.table for part in self.parts.values()}
        if len(tables) == 1:
            sha256 = self.train.table.digest
        else:
            digests = "".join(sorted({table.digest for table in tables.values()}))
            sha256 = hashlib.sha256(digests.encode()).hexdigest()
        return {
            "sha256": sha256,
            "samples": {split: len(part) for split, part in self.parts.items()},
            "overlap": self._overlap(),
            "notes": self.notes,
        }

    def _overlap(self) -> dict[str, Any]:
        known: dict[int, list[bytes]] = {}

        def hashes(part: SplitRows) -> list[bytes]:
            table = part.table
            if id(table) not in known:
                known[id(table)] = list(table.hashes(self._content or table.columns))
            return [known[id(table)][row] for row in part.rows.tolist()]

        learned = set(hashes(self.train))
        told = {}
        for split in ("validation", "test"):
            part = self.parts[split]
            twice = splitting.overlap(learned, hashes(part))
            if twice:
                places = [part.table.place(int(part.rows[i])) for i in twice[:EXAMPLES]]
                told[split] = {"samples": len(twice), "places": places}
        return told


def refuse_same(split: str, digest: str, train_digest: str) -> None:
    """Raise InvalidInput where a part's file has the content of the training data's."""
    if digest == train_digest:
        raise InvalidInput(
            f"data.{split} is the same data as data.train.",
            hint="Name other data, or a share of the training data, as 0.1.",
            param=f"data.{split}",
        )


def overlap_warnings(facts: Mapping[str, Any]) -> list[JobEvent]:
    """For each part with samples that are learned from as well, what a job tells of it."""
    return [
        JobEvent(
            type="message",
            level="warn",
            message=(
                f"{found['samples']} {split} samples are also trained on, which flatters the "
                f"numbers: {'; '.join(found['places'])}"
                f"{' …' if found['samples'] > len(found['places']) else '.'}"
            ),
            created_at=time.time(),
            data={"split": split, **found},
        )
        for split, found in facts.get("overlap", {}).items()
    ]


def noted(facts: Mapping[str, Any]) -> list[JobEvent]:
    """What of the data was passed over, as a job tells of it."""
    return [
        JobEvent(type="message", level="warn", message=note, created_at=time.time())
        for note in facts.get("notes", ())
    ]


def columns_of(recipe: Recipe, table: Table, fields: Sequence[str]) -> dict[str, str]:
    """Which column each field is in: as `data.columns` says, else the one of its name."""
    unknown = set(recipe.data.columns) - set(fields)
    if unknown:
        raise InvalidInput(
            f"data.columns names {', '.join(sorted(unknown))}; the fields of {recipe.task} are "
            f"{', '.join(fields)}.",
            param="data.columns",
        )
    columns = {field: recipe.data.columns.get(field, field) for field in fields}
    for field, column in columns.items():
        table.require(
            column,
            f"Say in which column the {field} is: --set data.columns.{field}=COLUMN, or "
            f"data.columns: {{{field}: COLUMN}} in the recipe.",
        )
    twice = [name for name, count in Counter(columns.values()).items() if count > 1]
    if twice:
        raise InvalidInput(f"data.columns gives {twice[0]!r} to two fields.", param="data.columns")
    return columns
