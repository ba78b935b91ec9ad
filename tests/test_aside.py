"""Records are known to msgspec before threads decode them: else the process may end."""

import subprocess
import sys

RACE = """
import sys, threading, msgspec
from lmaas.types import Manifest, know_records
know_records()
body = msgspec.json.encode({"name": "a", "task": "tensor", "framework": "onnx",
    "signature": {"inputs": [], "outputs": []}, "num_parameters": 1, "framework_version": "1"})
sys.setswitchinterval(1e-6)
together, wrong = threading.Barrier(8), []

def decode():
    together.wait()
    try:
        msgspec.json.decode(body, type=Manifest)
    except Exception as error:
        wrong.append(error)

threads = [threading.Thread(target=decode) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sys.exit(bool(wrong))
"""


def test_threads_that_decode_a_record_for_the_first_time_at_once() -> None:
    # Without `know_records` 24 of 25 such processes ended with a segmentation fault.
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", RACE], check=False, timeout=60).returncode == 0
