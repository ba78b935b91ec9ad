"""Downloads that no pull has taken over: broken off, or kept on purpose."""

import shutil
from pathlib import Path

from lmaas.errors import Conflict
from lmaas.hub.pull import locked
from lmaas.hub.repo import HubRef


def hub_folder(home: Path, tenant: str) -> Path:
    """Where the downloads of a tenant are."""
    return home / "hub" / tenant


def leftovers(home: Path, *, remove: bool) -> tuple[str, ...]:
    """Each as `ORG/NAME@commit: size`. With `remove`, those that no pull is at are deleted."""
    found = []
    for folder in sorted((home / "hub").glob("*/*/*")):
        if not folder.is_dir():
            continue
        ref = HubRef(repo=folder.parent.name.replace("--", "/", 1), revision=folder.name)
        size_bytes = sum(map(_size_bytes, folder.rglob("*")))
        if remove:
            try:
                with locked(folder.parents[1], ref):
                    shutil.rmtree(folder)
                    if not any(folder.parent.iterdir()):
                        folder.parent.rmdir()
            except Conflict:
                continue
        found.append(f"{ref.repo}@{ref.revision}: {size_bytes} bytes")
    return tuple(found)


def _size_bytes(path: Path) -> int:
    """Of a file; 0 for a folder, and for what a pull takes away meanwhile."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0
