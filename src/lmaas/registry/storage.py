"""The port behind which the records of a home are kept, and what its users do with rows.

The registry, the accounts and the jobs know this module and the tables (`registry.schema`), never
the backend. `registry.database` is the backend for SQLite.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, get_args

import sqlalchemy as sa

Topic = Literal["models", "keys", "limits", "jobs", "webhooks", "galleries"]
"""What can be watched. Each table that belongs to one says so (`info` in `registry.schema`)."""
TOPICS: tuple[Topic, ...] = get_args(Topic)


class Revision(Protocol):
    """A watch over one topic: call it for a number."""

    def __call__(self) -> int:
        """A number that has risen if, since an earlier call, any process changed the topic.

        A change by this process shows at once, one by another within milliseconds. Waits for no
        lock and costs less than a microsecond while nothing changes: an event loop may ask.
        """


class Storage(Protocol):
    """Tables that several processes read and write. Thread-safe."""

    def read(self) -> AbstractContextManager[sa.Connection]:
        """A connection that sees one moment of all tables."""

    def write(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that is committed whole at the end, or undone by an exception or a crash.

        Writers take turns: from its first statement to its end no other one writes, so that what it
        has read is still true when it writes. Rows are written by statements of SQLAlchemy's Core,
        which tell which topics have changed. A commit that has returned survives a loss of power.
        Raises StorageFull, and Unavailable when other writers take too long.
        """

    def scrub(self, remains: Sequence[bytes]) -> None:
        """Have what was deleted leave the backend's files too, its journals included.

        `remains` are bytes that only deleted rows had; afterwards no file has them. Raises
        Unavailable where other processes keep it from that for long; the rows are gone
        nevertheless, and calling it again is enough.
        """

    def watch(self, topic: Topic) -> Revision:
        """Whether anything of `topic` has changed since."""

    def close(self) -> None:
        """Release every connection."""


def claim_row(
    connection: sa.Connection, table: sa.Table, first: sa.Select[Any], values: Mapping[str, Any]
) -> Any:
    """Take the row whose key `first` selects by changing it; the changed row, or None.

    Of several claimers each gets another row: `first` is asked again by each, and finds none that
    another has taken, if `values` make the row one that it does not select.
    """
    (key,) = table.primary_key
    wanted = first.with_for_update(skip_locked=True).scalar_subquery()
    taking = table.update().where(key == wanted).values(**values).returning(table)
    return connection.execute(taking).first()


def next_number(
    connection: sa.Connection,
    counter: sa.Column[int],
    row: sa.ColumnElement[bool],
    **values: Any,
) -> int | None:
    """Count up a column of the one row that `row` selects; the new number, None without the row.

    The row is owned until the transaction ends: no two writers get one number, and none is left
    out, since a transaction that is undone gives its number back. `values` are set with it.
    """
    counting = (
        counter.table.update().where(row).values({counter.name: counter + 1, **values})
    ).returning(counter)
    return connection.execute(counting).scalar()
