"""Scratch folders go with the process that made them, also if it was killed."""

import subprocess
import sys
from pathlib import Path

from lmaas.config import Settings
from lmaas.service.workshop import Workshop

KILLED = """
import os, signal, sys
from pathlib import Path
from lmaas.config import Settings
from lmaas.service.workshop import Workshop
with Workshop(Settings(home=sys.argv[1])).folder("pull") as folder:
    (folder / "package").mkdir()
    (folder / "package" / "weights").write_bytes(bytes(100))
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_and_nothing_else(tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    abandoned = Path(killed.stdout.strip())
    assert (abandoned / "package" / "weights").exists()
    workshop = Workshop(Settings(home=str(tmp_path)))
    other = tmp_path / "tmp" / "a-folder-of-somebody"
    other.mkdir()
    with workshop.folder("push-a-model") as own:
        workshop.tidy()
        assert not abandoned.exists()
        assert own.is_dir()
        assert other.is_dir()
    workshop.close()
