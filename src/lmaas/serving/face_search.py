"""Exact search among the faces of galleries: all vectors of a gallery in one matrix in memory.

A matrix is read from the registry when it is first asked for, grows by what is enrolled, and is
overwritten and dropped when anything of it was deleted, by any process. Thread-safe.
"""

import threading
from collections import OrderedDict
from typing import Final, NamedTuple

import numpy as np

from lmaas.errors import DoesNotFit, NotFound
from lmaas.registry.galleries import Galleries
from lmaas.registry.gallery_rows import Row, Vectors
from lmaas.registry.storage import Revision

FLOAT_BYTES: Final = 4
LEAST_CAPACITY: Final = 64
BLOCK: Final = 2048


class Near(NamedTuple):
    """A subject, and the cosine of the angle to the nearest of its vectors."""

    subject: str
    similarity: float


class Matrix:
    """The vectors of one gallery: `count` rows of `rows` are photos."""

    def __init__(self, dimensions: int) -> None:
        self.rows = np.empty((0, dimensions), np.float32)
        self.owners = np.empty(0, np.int32)
        self.count = 0
        self.subjects: list[str] = []
        self.last_photo = self.removals = -1
        self.lock = threading.Lock()
        self._numbers: dict[str, int] = {}

    @property
    def size_bytes(self) -> int:
        """Memory of the vectors."""
        return self.rows.nbytes + self.owners.nbytes

    def add(self, vectors: Vectors) -> None:
        """Photos that are newer than those that there are."""
        more = len(vectors.numbers)
        if self.count + more > len(self.rows):
            self._grow(self.count + more)
        here = slice(self.count, self.count + more)
        self.rows[here] = vectors.vectors
        for place, subject in enumerate(vectors.subjects, self.count):
            number = self._numbers.get(subject)
            if number is None:
                number = self._numbers[subject] = len(self.subjects)
                self.subjects.append(subject)
            self.owners[place] = number
        self.count += more

    def nearest(self, queries: np.ndarray, most: int) -> list[list[Near]]:
        """For each of `queries` (Q, dimensions), of length 1, the `most` nearest subjects."""
        if not self.count or not most:
            return [[] for _ in queries]
        owners = self.owners[: self.count]
        found = []
        for similar in cosines(queries, self.rows[: self.count]):
            best = np.full(len(self.subjects), -np.inf, np.float32)
            np.maximum.at(best, owners, similar)
            wanted = min(most, len(best))
            first = np.argpartition(-best, wanted - 1)[:wanted]
            order = first[np.argsort(-best[first], kind="stable")]
            found.append([Near(self.subjects[one], _cosine(best[one])) for one in order.tolist()])
        return found

    def of_subject(self, queries: np.ndarray, subject: str) -> list[float] | None:
        """The similarity of each query to the nearest photo of `subject`; None without photos."""
        number = self._numbers.get(subject)
        own = self.rows[: self.count][self.owners[: self.count] == number]
        if number is None or not len(own):
            return None
        return [_cosine(value) for value in cosines(queries, own).max(axis=1)]

    def forget(self) -> None:
        """Overwrite the vectors."""
        self.rows.fill(0)
        self.count = 0
        self.subjects, self._numbers = [], {}
        self.last_photo = self.removals = -1

    def _grow(self, least: int) -> None:
        capacity = max(LEAST_CAPACITY, least, len(self.rows) * 5 // 4 if self.count else 0)
        rows = np.zeros((capacity, self.rows.shape[1]), np.float32)
        owners = np.zeros(capacity, np.int32)
        rows[: self.count], owners[: self.count] = (
            self.rows[: self.count],
            self.owners[: self.count],
        )
        self.rows.fill(0)
        self.rows, self.owners = rows, owners


def cosines(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of each of `queries` (Q, D) with each of `rows` (N, D), all of length 1: (Q, N).

    In blocks that stay in the processor's cache, in one thread: for so little work, the threads of
    a BLAS wait for each other longer than they compute.
    """
    found = np.empty((len(queries), len(rows)), np.float32)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        for told, query in zip(found, queries, strict=True):
            np.vecdot(block, query, out=told[start : start + BLOCK])
    return found


class FaceSearch:
    """The matrices of one process, at most `most_bytes` of them, the newest asked for."""

    def __init__(self, galleries: Galleries, revision: Revision, most_bytes: int) -> None:
        self._galleries = galleries
        self._revision = revision
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Matrix] = OrderedDict()
        self._seen = -1

    @property
    def kept(self) -> list[str]:
        """The ids of the galleries in memory."""
        with self._lock:
            return list(self._kept)

    def nearest(self, row: Row, queries: np.ndarray, most: int) -> list[list[Near]]:
        """See `Matrix.nearest`. Raises DoesNotFit, and NotFound where the gallery is gone."""
        matrix = self._matrix(row)
        with matrix.lock:
            self._freshen(row, matrix)
            return matrix.nearest(queries, most)

    def of_subject(self, row: Row, queries: np.ndarray, subject: str) -> list[float] | None:
        """See `Matrix.of_subject`."""
        matrix = self._matrix(row)
        with matrix.lock:
            self._freshen(row, matrix)
            return matrix.of_subject(queries, subject)

    def tidy(self) -> None:
        """Let nothing stay in memory that was deleted, in whichever process."""
        number = self._revision()
        with self._lock:
            if number == self._seen:
                return
            kept = dict(self._kept)
        states = self._galleries.states(kept)
        for id_, matrix in kept.items():
            with matrix.lock:
                state = states.get(id_)
                if state is None or state[1] != matrix.removals:
                    matrix.forget()
            if state is None:
                with self._lock:
                    self._kept.pop(id_, None)
        with self._lock:
            self._seen = number

    def _matrix(self, row: Row) -> Matrix:
        self.tidy()
        with self._lock:
            matrix = self._kept.get(row.id)
            if matrix is None:
                matrix = self._kept[row.id] = Matrix(row.dimensions)
            self._kept.move_to_end(row.id)
            return matrix

    def _freshen(self, row: Row, matrix: Matrix) -> None:
        """Read what has changed. Its lock is held."""
        if (matrix.last_photo, matrix.removals) == (row.last_photo, row.removals):
            return
        if matrix.removals != row.removals:
            matrix.forget()
        try:
            vectors, last, removals = self._galleries.load(
                row.id, row.dimensions, max(0, matrix.last_photo)
            )
            if matrix.removals not in (-1, removals):
                # Something was deleted between the two looks: all anew.
                matrix.forget()
                vectors, last, removals = self._galleries.load(row.id, row.dimensions, 0)
            self._make_room(row, len(vectors.numbers) + matrix.count)
            matrix.add(vectors)
        except (NotFound, DoesNotFit):
            matrix.forget()
            with self._lock:
                self._kept.pop(row.id, None)
            raise
        matrix.last_photo, matrix.removals = last, removals

    def _make_room(self, row: Row, photos: int) -> None:
        needed = photos * (row.dimensions + 1) * FLOAT_BYTES * 5 // 4
        if needed > self._most_bytes:
            raise DoesNotFit(
                f"The gallery {row.name} needs {needed >> 20} MiB; galleries may have "
                f"{self._most_bytes >> 20} MiB of memory.",
                hint="Make it smaller, or raise gallery_cache_bytes.",
            )
        with self._lock:
            others = [(i, m) for i, m in self._kept.items() if i != row.id]
            total = needed + sum(matrix.size_bytes for _, matrix in others)
            for id_, _ in others:
                if total <= self._most_bytes:
                    return
                # Whoever searches in it right now holds it until the end.
                total -= self._kept.pop(id_).size_bytes


def _cosine(value: float) -> float:
    return float(min(1.0, max(-1.0, value)))
