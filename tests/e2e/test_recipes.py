"""The recipes, run as a reader would."""

import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parent.parent.parent / "recipes"
PROVEN = (
    "chat_tuning", "detection", "digits", "faces", "finance_table", "logistics_table",
    "medical_table", "plates", "sentiment", "speech", "translation",
)  # fmt: skip


def run(name: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-W", "ignore", str(RECIPES / f"{name}.py"), "--quick"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_all_recipes_are_run_here() -> None:
    runnable = {p.stem for p in RECIPES.glob("*.py") if "__main__" in p.read_text("utf-8")}
    assert runnable == {"private_llm", *PROVEN}


def test_private_llm() -> None:
    done = run("private_llm")
    assert "All answers are right." in done.stdout
    assert "int8 weights" in done.stderr


@pytest.mark.parametrize("name", PROVEN)
def test_what_a_recipe_of_training_proves(name: str) -> None:
    assert "All checks hold." in run(name).stdout
