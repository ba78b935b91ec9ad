"""Imports without what a library imports for functions that nothing here calls.

Keras brings scikit-learn and matplotlib, where they are installed, for wrappers and galleries: a
fifth of the CPU time of `import tensorflow`, a third of that of `import keras`. transformers'
generation brings scikit-learn to tune a threshold of assisted generation: a fifth of importing a
language model.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Final

UNUSED: Final[dict[str, tuple[str, ...]]] = {
    "keras": ("matplotlib", "sklearn"),
    "transformers.generation.utils": ("sklearn",),
}
"""What is not there while a module is imported."""


class _Lean(MetaPathFinder):
    """Finds the modules of `UNUSED` as Python would, and has them imported without the others."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in UNUSED:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = functools.partial(_execute, spec.loader.exec_module, UNUSED[fullname])
            spec.loader.exec_module = execute  # type: ignore[method-assign]
        return spec


def _execute(
    execute: Callable[[ModuleType], None], unused: Sequence[str], module: ModuleType
) -> None:
    with _without(unused):
        execute(module)


@contextmanager
def _without(unused: Sequence[str]) -> Iterator[None]:
    hidden = [name for name in unused if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment] # as Python's import takes it: not there
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def install() -> None:
    """Import so from now on; what was left out can be imported later.

    For processes of our own only, at their beginning: another thread that imports scikit-learn
    while Keras is imported would not find it.
    """
    sys.meta_path.insert(0, _Lean())
