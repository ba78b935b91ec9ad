"""What a process of ours imports with a library, and what it does not."""

import subprocess
import sys

import pytest

from lmaas.lean_imports import UNUSED

CODE = """
import importlib, sys
from lmaas import lean_imports
lean_imports.install()
name, unused = sys.argv[1], sys.argv[2:]
module = importlib.import_module(name)
assert module.__spec__.name == name
assert module.__loader__.get_source(name)
left = [other for other in unused if other in sys.modules]
assert not left, left
for other in unused:
    importlib.import_module(other)
    assert sys.modules[other] is not None
"""


@pytest.mark.parametrize(
    ("module", "unused"),
    [*UNUSED.items(), ("tensorflow", UNUSED["keras"]), ("keras.layers", UNUSED["keras"])],
)
def test_the_unused_is_not_imported_and_can_be_used_later(
    module: str, unused: tuple[str, ...]
) -> None:
    argv = [sys.executable, "-W", "ignore", "-c", CODE, module, *unused]
    subprocess.run(argv, check=True)
