"""Install LMaaS from this checkout, in the smallest builds of PyTorch and TensorFlow that do.

    python tools/install.py EXTRA [EXTRA ...]

PyTorch's default wheels for Linux bring gigabytes of CUDA libraries. Where no NVIDIA GPU is found,
the CPU builds are installed instead: from pip's own sources if they have one, else from PyTorch's
index of CPU builds by way of uv. If neither can be reached, the default wheels are taken.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
LOCK = HERE / "requirements.lock"
GB_ON_DISK = {"cpu": 0.8, "default": 8.1, "tensorflow-cpu": 1.3, "tensorflow": 1.9}
"""What each build takes with the libraries that it brings."""
OTHERS_GB = 1.6
UNREACHABLE_S = 10
"""So long an index may keep silent."""


def has_nvidia_gpu() -> bool:
    """Whether the driver answers for a GPU."""
    if not (smi := shutil.which("nvidia-smi")):
        return False
    try:
        listed = subprocess.run([smi, "-L"], capture_output=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"GPU" in listed


def default_brings_cuda() -> bool:
    """Whether the default wheels for this system are made for NVIDIA's GPUs."""
    return sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")


def installed(package: str) -> str | None:
    """The version of a package that is here already."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def extras() -> dict[str, list[str]]:
    """The optional dependencies by name."""
    text = (HERE / "pyproject.toml").read_text("utf-8")
    found: dict[str, list[str]] = tomllib.loads(text)["project"]["optional-dependencies"]
    return found


def locked(package: str) -> str:
    """The version of a package in the lock file."""
    matched = re.search(rf"^{re.escape(package)}==([^\s;]+)", LOCK.read_text("utf-8"), re.M)
    if matched is None:
        raise SystemExit(f"{LOCK.name} does not name {package}.")
    return matched[1]


def pip(*arguments: str, quiet: bool = False) -> bool:
    """Run pip; whether it succeeded. `quiet`: not a word about a failure."""
    argv = [sys.executable, "-m", "pip", "install", "-q", "-c", str(LOCK), *arguments]
    return not subprocess.run(
        argv, cwd=HERE, stderr=subprocess.DEVNULL if quiet else None
    ).returncode


def uv(*arguments: str) -> bool:
    """Run uv's pip, which knows where PyTorch keeps its builds; whether it succeeded."""
    if not pip("uv", quiet=True):
        return False
    argv = [sys.executable, "-m", "uv", "pip", "install", "-q", "--python", sys.executable]
    patience = {"UV_HTTP_TIMEOUT": str(UNREACHABLE_S), "UV_HTTP_RETRIES": "0"}
    done = subprocess.run(
        [*argv, *arguments], env={**os.environ, **patience}, stderr=subprocess.DEVNULL, cwd=HERE
    )
    return not done.returncode


def tell(text: str) -> None:
    """One line to whoever waits."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def install_torch(*, cpu: bool) -> None:
    """PyTorch, pinned as `pyproject.toml` pins it, in its CPU build where that is wanted."""
    (requirement,) = extras()["pytorch"]
    _, _, number = requirement.partition("==")
    have = installed("torch")
    if have is not None and have.partition("+")[0] == number:
        return
    if cpu and (pip(f"{requirement}+cpu", quiet=True) or uv("--torch-backend=cpu", requirement)):
        return
    if cpu:
        tell(
            "No CPU build of PyTorch can be reached: taking the default one, "
            f"{GB_ON_DISK['default']:g} GB on disk with its CUDA libraries."
        )
        check_disk(GB_ON_DISK["default"] - GB_ON_DISK["cpu"])
    if not pip(requirement):
        raise SystemExit(f"{requirement} cannot be installed.")


def check_disk(needed_gb: float) -> None:
    """End where the disk has too little room."""
    free_gb = shutil.disk_usage(sys.prefix).free / 1e9
    if free_gb < needed_gb:
        raise SystemExit(
            f"{needed_gb:.1f} GB are needed in {sys.prefix}, and {free_gb:.1f} GB are free."
        )


def main(wanted: list[str]) -> int:
    """Install the `wanted` extras."""
    unknown = sorted(set(wanted) - set(extras()))
    if unknown:
        raise SystemExit(f"There are no extras {', '.join(unknown)} in pyproject.toml.")
    cpu = default_brings_cuda() and not has_nvidia_gpu()
    requirements = []
    needed_gb = 0.0
    if installed("torch") is None:
        cuda = default_brings_cuda() and not cpu
        needed_gb += OTHERS_GB + GB_ON_DISK["default" if cuda else "cpu"]
    if "tensorflow" in wanted and installed("tensorflow") is None:
        build = "tensorflow-cpu" if cpu and platform.machine() == "x86_64" else "tensorflow"
        if build != "tensorflow":
            wanted = [extra for extra in wanted if extra != "tensorflow"]
            requirements = [f"{build}=={locked('tensorflow')}"]
        if installed(build) is None:
            needed_gb += GB_ON_DISK[build]
    if needed_gb:
        builds = "CPU builds (no NVIDIA GPU was found)" if cpu else "default builds"
        tell(f"PyTorch and TensorFlow come as {builds}. This takes {needed_gb:.1f} GB of disk.")
        check_disk(needed_gb)
    install_torch(cpu=cpu)
    if not pip("-e", f".[{','.join(wanted)}]", *requirements):
        raise SystemExit("The installation failed: what pip says stands above.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
