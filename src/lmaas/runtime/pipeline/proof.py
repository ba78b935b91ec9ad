"""Does a new pipeline answer? All its parts are loaded, and one drawn sample goes through them.

That each part gives its source's outputs was measured when its own version was registered.
"""

from pathlib import Path

from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput
from lmaas.runtime.engine import Engine, make_engine, require_engine
from lmaas.runtime.pipeline import alone
from lmaas.tasks.base import Tensors
from lmaas.tasks.pipelines import BoundPart, PipelineTask
from lmaas.types import Manifest, ParityReport, Part


def check(folder: Path, manifest: Manifest) -> ParityReport:
    """Load the parts below `folder` by their roles and answer. Raises InvalidInput, LMaaSError."""
    task = tasks.get(manifest.task)
    if not isinstance(task, PipelineTask) or not tasks.spec(manifest.task).roles:
        raise InvalidInput(f"Models for {manifest.task} are not made of others.")
    by_role = {part.role: part for part in manifest.parts}
    engines: dict[str, Engine] = {}
    try:
        for role, part in by_role.items():
            engines[role] = _loaded(folder / role, part, manifest.name)
        bound = {role: _bound(folder / role, part) for role, part in by_role.items()}
        asked: set[str] = set()
        runs = {role: _Watched(role, engine, asked) for role, engine in engines.items()}
        conversation = task.converse(task.drawn(), bound, manifest.signature, Limits())
        alone.answer(conversation, runs)
    finally:
        for engine in engines.values():
            engine.close()
    notes = ["Each part was compared with its source when its own version was registered."]
    if idle := [role for role in by_role if role not in asked]:
        notes.append(f"The drawn sample did not reach: {', '.join(idle)}.")
    return ParityReport(tolerance={}, checks=(), notes=tuple(notes))


class _Watched:
    """Runs a part and notes that it was asked."""

    def __init__(self, role: str, engine: Engine, asked: set[str]) -> None:
        self._role, self._engine, self._asked = role, engine, asked

    def __call__(self, arrays: Tensors) -> Tensors:
        self._asked.add(self._role)
        return self._engine.infer(arrays)


def _loaded(folder: Path, part: Part, name: str) -> Engine:
    require_engine(part.engine, name)
    engine = make_engine(part.engine)
    engine.load(folder, part.signature, "f32", 0)
    return engine


def _bound(folder: Path, part: Part) -> BoundPart:
    return BoundPart(
        role=part.role,
        model=part.model,
        task=tasks.get(part.task).bind(folder),
        signature=part.signature,
    )
