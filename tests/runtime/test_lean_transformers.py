"""What a process of ours imports with transformers, and what it does not."""

import subprocess
import sys

CODE = """
import sys
from lmaas.runtime.lean_transformers import import_generation
import_generation()
import_generation()
assert "transformers.generation.utils" in sys.modules
assert "scipy" not in sys.modules
assert "sklearn" not in sys.modules
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM
assert "sklearn" not in sys.modules
from sklearn.metrics import roc_curve
import_generation()
assert "sklearn" in sys.modules
"""


def test_scikit_learn_is_not_imported_with_it_and_can_be_used_later() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", CODE], check=True)
