"""What an engine is, as far as choosing one, planning memory and starting a worker need to know."""

from collections.abc import Sequence
from typing import Literal

from lmaas.types import FileRole, InputKind, Precision, Record

MIB = 1 << 20

WorkerKind = Literal["arrays", "text", "sequences", "speech", "pipeline"]
"""What a worker's main loop runs: a `runtime.engine.Engine`, which answers arrays with arrays; a
`runtime.language.engine.LanguageEngine`, which continues texts; the `runtime.sequence` engine,
which writes about sources; a `runtime.speech.engine.SpeechEngine`, which speaks texts; or several
engines of arrays, the parts of a pipeline."""


class EngineMemory(Record, frozen=True, kw_only=True):
    """How an engine's memory is planned.

    `overhead_bytes` is a worker without a model. `typed_weights`: weights take memory in the
    precision that they are served in; otherwise as they are stored. `typed_cache`: keys and values
    have that precision, too; otherwise 2 bytes an element. `on_gpu`: on a machine with a GPU,
    weights and cache lie in the GPU's memory.
    """

    overhead_bytes: int
    typed_weights: bool = False
    typed_cache: bool = False
    on_gpu: bool = False


class EngineSpec(Record, frozen=True, kw_only=True):
    """One engine, described.

    `made_by` is its class as "module:class"; "" for an engine that is a server of its own,
    and for a pipeline, which has those of its parts.
    `worker` is the main loop that runs it. `accepts` is what it can be given. `files` are those of
    a version that it needs. `needs` are the packages that it imports, `extra` what installs them.
    `precisions` are those it can compute in. `variants`: it takes compressed weights. `drafts`: it
    can be given tokens that another model, or the prompt, guesses.
    `proves_grammars`: it compiles a grammar inside a step for all sequences, so that each new one
    is first proven in another process.
    """

    name: str
    made_by: str
    files: FileRole
    memory: EngineMemory
    accepts: tuple[InputKind, ...] = ("tensors",)
    worker: WorkerKind = "arrays"
    needs: tuple[str, ...] = ()
    extra: str = ""
    precisions: tuple[Precision, ...] = ("f32",)
    variants: bool = False
    drafts: bool = False
    proves_grammars: bool = False

    def foreign(self, kinds: Sequence[InputKind]) -> list[InputKind]:
        """Those of `kinds` that it cannot be given."""
        return [kind for kind in kinds if kind not in self.accepts]

    @property
    def folder(self) -> str:
        """The folder of its files in a package."""
        return self.files
