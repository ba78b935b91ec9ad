"""The main job, as a user runs it: three frameworks trained, published, served and called."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_demo_serves_what_it_trained(tmp_path: Path) -> None:
    environment = {**os.environ, "LMAAS_HOME": str(tmp_path), "LMAAS_PORT": "0"}
    argv = [sys.executable, "-m", "lmaas", "demo", "--json"]
    done = subprocess.run(argv, env=environment, capture_output=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    told = json.loads(done.stdout)
    assert {model["framework"] for model in told["models"]} == {"pytorch", "keras", "tensorflow"}
    for model in told["models"]:
        assert model["accuracy"] >= 0.95
        assert model["answers_equal"]
        assert model["served_accuracy"] == model["accuracy"]
        assert model["parity_max_abs_error"] < 1e-4
        assert model["parameters"] == 784 * 128 + 128 + 128 * 10 + 10
