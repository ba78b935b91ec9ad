"""`lmaas doctor`: can this machine do the work, and what to do where it cannot."""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from lmaas.cli.output import home_options, json_option, service_of, show_table, size

if TYPE_CHECKING:
    from lmaas.config import Settings

PACKAGES = {
    "openvino": "",
    "torch": "pytorch",
    "keras": "keras",
    "tensorflow": "tensorflow",
    "onnx": "onnx",
    "scikit-learn": "demo",
}
"""What is looked for, and the extra that brings it; without one it is required."""
CPU_BUILDS = {"tensorflow": "tensorflow-cpu"}
"""The same packages under other names, without what a GPU needs."""

LEAST_MEMORY = 1 << 30
LEAST_DISK = 1 << 30


class Check(NamedTuple):
    """One finding. `next_step` says what to do unless all is well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    next_step: str = ""


@click.command()
@json_option
@home_options
@click.pass_obj
def command(flags: dict[str, Any], as_json: bool) -> int:
    """Check this machine and this home.

    The exit code is 1 if a check fails.
    """
    from lmaas.config import load_settings

    settings = load_settings(flags)
    checks = [_python(), *_packages(), _cpu(), _memory(), _isolation()]
    if settings.vllm_python or settings.engine == "vllm":
        checks.append(_vllm(settings))
    home: list[Callable[[], Check]] = [
        lambda: _writable(settings.home_path),
        lambda: _lock(settings.home_path),
        lambda: _database(flags),
        lambda: _keys(flags),
    ]
    for check in home:
        checks.append(check())
        if checks[-1].status == "fail":
            break
    checks.append(_port(settings))
    told = {
        "ok": all(check.status != "fail" for check in checks),
        "checks": [check._asdict() for check in checks],
    }
    show_table(told, as_json, ("check", "status", "found", "next"), checks)
    return 0 if told["ok"] else 1


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("python", "ok", version)
    return Check("python", "warn", version, "LMaaS is tested with Python 3.11-3.13.")


def _packages() -> list[Check]:
    checks = []
    for package, extra in PACKAGES.items():
        found = _version(package) or _version(CPU_BUILDS.get(package, package))
        if found is not None:
            checks.append(Check(package, "ok", found))
        else:
            wanted = f"lmaas[{extra}]" if extra else package
            need = f"To use it: pip install '{wanted}'."
            checks.append(Check(package, "warn" if extra else "fail", "not installed", need))
    return checks


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> Check:
    from lmaas.runtime.cpu import flags, gains_from_bf16, has_bf16

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags()]
    speed = "no native bf16, models run in f32"
    if has_bf16():
        speed = "bf16 is native" + ("" if gains_from_bf16() else " but slower than f32")
    return Check("cpu", "ok", f"{cores} cores; {' '.join(known) or 'no AVX'}; {speed}")


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{size(memory.available)} free of {size(memory.total)}"
    if memory.available < LEAST_MEMORY:
        return Check("memory", "warn", found, "Large models will not load; end other programs.")
    return Check("memory", "ok", found)


def _isolation() -> Check:
    from lmaas.placement.probe import missing

    lacking = missing()
    if not lacking:
        found = "workers, jobs and children have their own files, users, network and system calls"
        return Check("isolation", "ok", found)
    return Check(
        "isolation",
        "warn",
        "; ".join(lacking.values()),
        "Use Linux 5.13 or newer with user namespaces allowed, or push only models from people you "
        "trust. With isolation=required LMaaS does not run without.",
    )


def _vllm(settings: "Settings") -> Check:
    from lmaas.errors import LMaaSError
    from lmaas.serving.engines import has_gpu
    from lmaas.serving.vllm_install import check_python, prove_install, read_install

    try:
        python = check_python(settings.vllm_python)
        install = read_install(python)
        problem = prove_install(python)
    except LMaaSError as error:
        return Check("vllm", "fail", error.message, error.hint or "Set vllm_python to another.")
    build = "for GPUs" if install.gpu else "for CPUs"
    found = f"{install.vllm} with torch {install.torch}, built {build}"
    if problem:
        return Check("vllm", "fail", f"{found}: {problem}", f"Repair the environment of {python}.")
    if has_gpu() and not install.gpu:
        return Check("vllm", "warn", found, "This machine has a GPU: install vLLM's build for it.")
    if not has_gpu() and settings.engine != "vllm":
        return Check("vllm", "warn", found, "There is no GPU: it is used with engine=vllm only.")
    return Check("vllm", "ok", found)


def _writable(home: Path) -> Check:
    import shutil

    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"x")
            os.fsync(file.fileno())
    except OSError as error:
        return Check("home", "fail", f"{home}: {error.strerror}", "Choose another with --home.")
    free = shutil.disk_usage(home).free
    found = f"{home}, {size(free)} free"
    if home.stat().st_mode & 0o077:
        return Check("home", "warn", f"{found}, open to other users", f"chmod 700 {home}")
    if free < LEAST_DISK:
        return Check("home", "warn", found, "Free space, or choose another home with --home.")
    return Check("home", "ok", found)


def _lock(home: Path) -> Check:
    import fcntl

    with (
        tempfile.NamedTemporaryFile(dir=home) as first,
        Path(first.name).open("r+b") as second,
    ):
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return Check("lock", "fail", str(error.strerror), "Put the home on a local disk.")
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Check("lock", "ok", "file locks hold")
    return Check("lock", "fail", "two holders of one file lock", "Put the home on a local disk.")


def _database(flags: dict[str, Any]) -> Check:
    from sqlalchemy.exc import DatabaseError

    from lmaas.errors import LMaaSError

    mend = "Restore the home from a copy, or choose another with --home."
    try:
        with service_of(flags) as service:
            report = service.fsck()
    except (LMaaSError, DatabaseError) as error:
        return Check("database", "fail", " ".join(str(error).split()), mend)
    if not report.ok:
        found = f"{len(report.damaged)} damaged files, {len(report.database)} database problems"
        return Check("database", "fail", found, "`lmaas fsck` lists them; push the models again.")
    return Check("database", "ok", f"{report.num_files} files, all as they were stored")


def _keys(flags: dict[str, Any]) -> Check:
    from lmaas.types import TENANT

    with service_of(flags) as service:
        live = [key for key in service.list_keys(TENANT) if key.revoked_at is None]
    if live:
        return Check("keys", "ok", f"{len(live)} live")
    return Check("keys", "warn", "none yet", "`lmaas serve` makes one, or `lmaas keys create`.")


def _port(settings: "Settings") -> Check:
    from lmaas.errors import AlreadyRunning
    from lmaas.http.server import bind
    from lmaas.registry.lock import HomeLock

    live = HomeLock.read(settings.home_path)
    if live is not None:
        found = f"this home's server runs: {live.get('url', 'starting')}, process {live.get('pid')}"
        return Check("port", "ok", found)
    try:
        bind(settings).close()
    except AlreadyRunning as error:
        return Check("port", "warn", error.message, str(error.hint))
    return Check("port", "ok", f"{settings.host}:{settings.port} is free")
