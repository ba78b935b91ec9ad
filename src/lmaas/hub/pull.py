"""A checkpoint from a hub, from its name to a checked folder. Registering it is the service's."""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lmaas import tasks
from lmaas.errors import Conflict
from lmaas.frameworks import checkpoint, ctranslate2, refuse_checkpoint
from lmaas.hub.api import Hub
from lmaas.hub.download import Download, Heard
from lmaas.hub.repo import CARD, HubRef, choose
from lmaas.types import Record


class Pulled(Record, frozen=True, kw_only=True):
    """A downloaded and checked checkpoint. `source` names it as lineages do; `card` is its text.

    `task` None: its weights tell.
    """

    folder: str
    source: str
    task: str | None
    card: str


@contextmanager
def locked(hub_folder: Path, ref: HubRef) -> Iterator[None]:
    """The right to pull one repository into this home. Raises Conflict.

    The kernel releases it when its holder dies, however it dies.
    """
    hub_folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    hub_folder.mkdir(mode=0o700, exist_ok=True)
    with (hub_folder / f"{ref.folder}.lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Conflict(
                f"{ref.repo} is being pulled into this home already, by process "
                f"{file.read(20) or '?'}.",
                hint="Wait until it is done.",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def download(
    ref: HubRef,
    hub_folder: Path,
    *,
    token: str | None,
    task: str | None,
    heard: Heard,
    stop: threading.Event,
    endpoint: str | None = None,
    check: Callable[[int], None] = lambda _: None,
) -> Pulled:
    """Download one commit of a repository. Hold `locked` meanwhile.

    `token` says to the hub who asks; `endpoint` where it is, if not in `HF_ENDPOINT`. `check` is
    told the bytes of all files before any is downloaded, and may raise. `heard` is told how far it
    is, in this thread; `stop` ends it with Cancelled. Raises ModelRefused, StorageFull and what
    `api.Hub` raises.
    """
    with Hub(token, endpoint) as hub:
        commit, files = hub.commit(ref)
        chosen = choose(ref, files)
        check(sum(file.size_bytes for file in chosen))
        folder = hub_folder / ref.folder / commit
        run = Download(hub, ref, commit, folder, chosen, heard, stop)
        run.require_space()
        for file in chosen:
            if not file.is_weights:
                run.fetch(file)
        # What cannot be served is told before its weights are downloaded.
        refuse_checkpoint.check_configs(folder)
        if task is None and not any(file.name == ctranslate2.WEIGHTS for file in chosen):
            task = task_of(folder)
        for file in chosen:
            if file.is_weights:
                run.fetch(file)
    card = folder / CARD
    return Pulled(
        folder=str(folder),
        source=f"hf:{ref.repo}@{commit}",
        task=task,
        card=card.read_text("utf-8", errors="replace") if card.is_file() else "",
    )


def check_task(task: str | None) -> None:
    """Whether a checkpoint can have this task. Raises InvalidInput."""
    if task is not None:
        checkpoint.check_task(task)


def task_of(folder: Path) -> str:
    """The task that a checkpoint's configs tell of. Raises InvalidInput, ModelRefused."""
    task = checkpoint.task_of(checkpoint.read_config(folder))
    known = tasks.checkpoints()
    if known[task].certain:
        return task
    told = (name for name, spec in known.items() if any((folder / f).is_file() for f in spec.files))
    return next(told, task)
