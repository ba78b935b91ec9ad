"""What the recipes of training share: a scratch server, a job that must succeed, and checks."""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmaas
from lmaas.client import Client
from lmaas.job import Job
from lmaas.recipe import recipe_of


def say(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def check(what: str, holds: bool) -> int:
    """Say whether something holds; 1 where it does not."""
    say(f"    {'ok   ' if holds else 'WRONG'} {what}")
    return 0 if holds else 1


def train(client: Client, **recipe: Any) -> Job:
    """Run the job of a recipe to its end. Ends the program if it fails."""
    job = client.train(recipe_of(recipe))
    for _ in client.follow_job(job.id):
        pass
    job = client.job(job.id)
    if job.state != "succeeded":
        raise SystemExit(f"{job.name}: {job.state}: {job.error}\n{client.job_log(job.id)}")
    return job


def main(doc: str | None, prove: Callable[[Client, Path, bool], int]) -> int:
    """Run `prove` with a server, a scratch folder, and whether to be quick; the exit code.

    It gives how many checks failed.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less data, fewer rounds")
    parser.add_argument("--home", type=Path, help="keep the models here, not in a scratch folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recipe-") as scratch:
        folder = Path(scratch)
        with lmaas.local(given.home or folder / "home") as client:
            wrong = prove(client, folder, given.quick)
    say(f"{wrong} wrong." if wrong else "All checks hold.")
    return 1 if wrong else 0
