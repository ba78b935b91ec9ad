"""Make the home that `tests/e2e/test_older_home.py` opens: run with the code of an older version.

    git worktree add /tmp/older REVISION && cd /tmp/older && make install
    .venv/bin/python make.py older.tar.xz

It has a model that was published, one that was trained, an alias, a key with a limit, and a run
that was paused at a checkpoint. `answers.json` has what the models answered.
"""

import shutil
import sys
import tarfile
import tempfile
import time
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

import lmaas
from lmaas.accounts.records import Limits
from lmaas.config import Settings
from lmaas.recipe import recipe_of
from lmaas.service import Service

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
ROWS = [{"size": 1.5, "color": "red"}, {"size": -2.0, "color": "blue"}]
RECIPE = {
    "name": "table",
    "task": "tabular",
    "framework": "pytorch",
    "data": {"columns": {"target": "kind"}},
    "model": {"options": {"hidden": [8]}},
    "early_stopping": None,
    "seed": 3,
}


def main(target: Path) -> None:
    """Write the archive."""
    import torch

    rng = np.random.default_rng(0)
    lines = ["size,color,kind"]
    for _ in range(300):
        size, color = float(rng.normal()), str(rng.choice(["red", "blue"]))
        kind = "up" if size + (color == "red") > 0.5 else "down"
        lines.append(f"{size:.3f},{color},{kind}")
    with tempfile.TemporaryDirectory() as scratch:
        home, data = Path(scratch) / "home", Path(scratch) / "rows.csv"
        data.write_text("\n".join(lines) + "\n")
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        lmaas.publish(net, name="net", task="tensor", sample=X, home=home)
        with lmaas.local(home) as client:
            file = client.upload_file(data)
            run = RECIPE | {"data": {"train": file, **RECIPE["data"]}}  # type: ignore[dict-item]
            job = client.train(recipe_of(run | {"epochs": 3}))
            while client.job(job.id).state in ("queued", "running"):
                time.sleep(0.1)
            assert client.job(job.id).state == "succeeded", client.job(job.id)
            client.set_alias("table", "production", 1)
            more = {"name": "longer", "epochs": 400, "checkpoints": {"every_steps": 10}}
            paused = client.train(recipe_of(run | more))
            while not client.job(paused.id).checkpoints:
                time.sleep(0.1)
            client.pause_job(paused.id)
            while client.job(paused.id).state != "paused":
                time.sleep(0.1)
            answers = {
                "net": client.predict("net", X),
                "table": client.predict("table", ROWS),
                "paused": paused.id,
            }
        with closing(Service(Settings(home=str(home)))) as service:
            limits = Limits(requests_per_minute=1000)
            service.create_key("default", "old", ("call",), limits)
        (home / "answers.json").write_bytes(
            msgspec.json.encode(answers, enc_hook=np.ndarray.tolist)
        )
        for name in ("run", "tmp", "server.lock"):
            path = home / name
            if path.is_file():
                path.unlink()
        for cache in home.glob("jobs/*/tmp"):
            shutil.rmtree(cache)
        with tarfile.open(target, "w:xz") as archive:
            archive.add(home, "home")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
