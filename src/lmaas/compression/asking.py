"""A model in this process, asked as callers ask it: its task reads and writes, an engine runs.

Knows no workers: one call at a time, or all at once where the engine writes token by token.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.errors import LMaaSError
from lmaas.runtime.batching import BatchRequest
from lmaas.runtime.engine import ENGINES, make_engine
from lmaas.runtime.language.engine import EngineOptions
from lmaas.runtime.sequence.calls import SequenceTask
from lmaas.runtime.sequence.engine import SequenceEngine
from lmaas.runtime.sequence.session import Session, Told
from lmaas.types import Answer, Manifest, Payload, Precision


class Asked(Protocol):
    """A loaded model."""

    def ask(self, payloads: Sequence[Payload]) -> list[Answer]:
        """The answers to some calls. Raises what the first one that fails raises."""
        ...

    def close(self) -> None:
        """Give back what the model holds."""
        ...


def load(folder: Path, manifest: Manifest, precision: Precision, limits: Limits) -> Asked:
    """The model in `folder`, ready to be asked."""
    if ENGINES[manifest.engine].worker == "sequences":
        return _Writing(folder, manifest, precision, limits)
    return _Computing(folder, manifest, precision, limits)


class _Computing:
    """A model that answers arrays with arrays."""

    def __init__(
        self, folder: Path, manifest: Manifest, precision: Precision, limits: Limits
    ) -> None:
        self._manifest, self._limits = manifest, limits
        self._task = tasks.get(manifest.task).bind(folder)
        self._engine = make_engine(manifest.engine)
        self._engine.load(folder, manifest.signature, precision, 0)

    def ask(self, payloads: Sequence[Payload]) -> list[Answer]:
        """See `Asked`."""
        return [self._one(payload) for payload in payloads]

    def _one(self, payload: Payload) -> Answer:
        signature, name = self._manifest.signature, self._manifest.name
        batch = self._task.read(payload, signature, self._limits)
        if not batch.arrays and not batch.parts:
            return self._task.write({}, batch, signature, name)
        request = BatchRequest(id=0)
        request.begin(batch)
        while True:
            assert request.batch is not None
            whole = request.end_part(self._engine.infer(request.batch.arrays))
            if whole is not None:
                return self._task.write(whole[1], whole[0], signature, name)

    def close(self) -> None:
        """See `Asked`."""
        self._engine.close()


class _Writing:
    """A model that writes tokens."""

    def __init__(
        self, folder: Path, manifest: Manifest, precision: Precision, limits: Limits
    ) -> None:
        self._manifest, self._limits = manifest, limits
        self._task = cast(SequenceTask, tasks.get(manifest.task).bind(folder))
        self._engine = SequenceEngine()
        assert manifest.signature.sequence is not None
        options = EngineOptions(precision=precision)
        self._engine.load(folder, manifest.signature.sequence, options)
        self._session = Session(self._engine)

    def ask(self, payloads: Sequence[Payload]) -> list[Answer]:
        """See `Asked`."""
        found: dict[int, Answer] = {}
        for number, payload in enumerate(payloads):
            conversation = self._task.converse(payload, self._manifest.signature, self._limits)
            try:
                turn = next(conversation)
            except StopIteration as end:
                found[number] = end.value
                continue
            self._take(self._session.begin(number, conversation, turn), found)
        while len(self._session):
            if not self._session.busy():
                raise LMaaSError("The model has calls that wait for nothing.")
            self._take(self._session.step(), found)
        return [found[number] for number in range(len(payloads))]

    def _take(self, told: Told, found: dict[int, Answer]) -> None:
        for _, error in told.failed:
            raise error
        found.update(told.done)

    def close(self) -> None:
        """See `Asked`."""
        self._engine.close()
