"""A runner of jobs whose work counts steps instead of training, for tests.

Its recipe: `steps` of `step_s` seconds each, a checkpoint `every` so many, and what goes wrong:
`crash_at` (a step; `crash_once` only the first time), `fail`, `grow_bytes`, `fill_files` (of 1 MiB
each), `deaf` (control is not looked at), `family` (starts a process of its own).
`python job_runner.py server HOME` is a runner that can be killed.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from lmaas.errors import InvalidInput
from lmaas.job import CONTROL_FILE, RESULT_FOLDER, Job, JobEvent
from lmaas.jobs.child import Task, Tell, main
from lmaas.jobs.claims import Claims
from lmaas.jobs.runner import Runner, Succeed
from lmaas.jobs.store import Jobs
from lmaas.placement.local import LocalPlacement
from lmaas.registry.store import Registry
from lmaas.types import Manifest, ParityReport, Signature

COMMAND = (sys.executable, "-P", str(Path(__file__)), "child")
SLEEP_FOREVER = "import time\nwhile True: time.sleep(1)"


def count(task: Task, folder: Path, tell: Tell) -> bool:
    """The work."""
    recipe = task.recipe
    at = folder / "checkpoint"
    first = int(at.read_text("utf-8")) if at.exists() else 0
    if recipe.get("family"):
        child = subprocess.Popen([sys.executable, "-c", SLEEP_FOREVER])
        (folder / "family").write_text(str(child.pid), "utf-8")
    if recipe.get("fail"):
        raise InvalidInput("Line 3 has no label.", hint="Give it one.", param="data")
    kept = bytearray(int(recipe.get("grow_bytes", 0)))
    for page in range(0, len(kept), 4096):
        kept[page] = 1
    for number in range(int(recipe.get("fill_files", 0))):
        (folder / f"filling{number}").write_bytes(bytes(1 << 20))
    for step in range(first + 1, int(recipe["steps"]) + 1):
        time.sleep(recipe.get("step_s", 0.02))
        _event(tell, "metrics", f"step {step}", step=step, train_loss=1 / step)
        if step == recipe.get("crash_at") and not (
            recipe.get("crash_once") and (folder / "crashed").exists()
        ):
            (folder / "crashed").touch()
            os.write(1, b"about to crash\n")
            os.kill(os.getpid(), signal.SIGKILL)
        word = (folder / CONTROL_FILE).exists() and (folder / CONTROL_FILE).read_text("utf-8")
        if (word and not recipe.get("deaf")) or step % recipe.get("every", 5) == 0:
            # Whole or not at all: it may be killed here.
            at.with_suffix(".new").write_text(str(step), "utf-8")
            at.with_suffix(".new").rename(at)
            _event(tell, "checkpoint", "", step=step, folder="checkpoint")
        if word and not recipe.get("deaf"):
            return False
    result = folder / RESULT_FOLDER / "source"
    result.mkdir(parents=True)
    (result / "steps.txt").write_text(f"{first + 1} to {recipe['steps']}", "utf-8")
    return True


def _event(tell: Tell, kind: Any, text: str, **data: Any) -> None:
    tell(JobEvent(type=kind, message=text, created_at=time.time(), data=data))


def located(job: Job) -> tuple[dict[str, Any], list[Path]]:
    """A recipe, whose data are paths, and those of them that are there."""
    given = job.recipe.get("data", {}).values()
    paths = [Path(value) for value in given if isinstance(value, str)]
    return job.recipe, [path for path in paths if path.exists()]


class Bench:
    """A home with a queue, a registry and, between `start` and `stop`, a runner."""

    def __init__(self, home: Path, **options: Any) -> None:
        self.home = home
        self.registry = Registry(home)
        self.claims = Claims(self.registry.database)
        self.jobs = Jobs(self.registry.database)
        self.fail_after_publish = 0
        given: dict[str, Any] = {
            "max_running": 2,
            "max_per_tenant": 0,
            "memory_bytes": 1 << 30,
            "disk_bytes": 1 << 30,
            "command": COMMAND,
            "cancel_grace_s": 0.5,
            "pause_grace_s": 0.5,
        }
        self.runner = Runner(
            home / "jobs",
            self.claims,
            self.registry.database.watch("jobs"),
            LocalPlacement(home),
            publish=self._publish,
            unpack=lambda job, folder: False,
            locate=located,
            **{**given, **options},
        )

    async def _publish(self, job: Job, package: Path, succeed: Succeed) -> None:
        manifest = Manifest(
            name=job.name,
            task="tensor",
            framework="pytorch",
            signature=Signature(inputs=(), outputs=()),
            num_parameters=0,
            framework_version="0",
        )

        def beside(connection: sa.Connection, ref: str) -> None:
            succeed(connection, ref)
            if self.fail_after_publish:
                self.fail_after_publish -= 1
                raise OSError("The server dies before it commits.")

        nothing = ParityReport(tolerance={}, checks=())
        await asyncio.to_thread(self.registry.add, job.tenant, manifest, nothing, package, beside)

    def add(self, name: str = "counter", **recipe: Any) -> Job:
        """A job that counts."""
        return self.jobs.add("t", "key", "train", name, recipe)

    def get(self, job: Job) -> Job:
        """The job as it is now."""
        return self.jobs.get("t", job.id)

    def steps(self, job: Job) -> list[int]:
        """The steps that its events tell of."""
        events = self.jobs.events("t", job.id, limit=1000)
        return [event.data["step"] for event in events if event.type == "metrics"]

    def close(self) -> None:
        """Release the home."""
        self.registry.close()


async def _serve(home: Path) -> None:
    await Bench(home).runner.start()
    os.write(1, b"ready\n")
    await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "child":
        sys.exit(main(Path(sys.argv[2]), count))
    asyncio.run(_serve(Path(sys.argv[2])))
