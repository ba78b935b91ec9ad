"""The recipes, run as a reader would."""

import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parent.parent.parent / "recipes"


@pytest.mark.timeout(400)
def test_private_llm() -> None:
    argv = [sys.executable, "-W", "ignore", str(RECIPES / "private_llm.py"), "--quick"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All answers are right." in done.stdout
    assert "int8 weights" in done.stderr
