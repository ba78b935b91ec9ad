"""Engines on arrays as requests bring them: read-only, large, many, while others are decoded."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from lmaas.runtime.openvino_engine import OpenVINOEngine
from lmaas.types import Signature, TensorSpec

INPUTS = 6


@pytest.fixture(params=[8, 256, 4096, 65_536])
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def engine(tmp_path: Path, width: int) -> OpenVINOEngine:
    """The sum of many inputs."""
    import openvino
    import openvino.opset13 as ops

    inputs = [ops.parameter([-1, width], np.float32) for _ in range(INPUTS)]
    total = inputs[0]
    for one in inputs[1:]:
        total = ops.add(total, one)
    graph = openvino.Model([ops.result(total)], inputs, "total")
    for number, port in enumerate(graph.inputs):
        port.set_names({f"x{number}"})
    graph.outputs[0].set_names({"y"})
    openvino.save_model(graph, tmp_path / "model.xml", compress_to_fp16=False)
    signature = Signature(
        inputs=tuple(
            TensorSpec(name=f"x{n}", dtype="float32", shape=(-1, width)) for n in range(INPUTS)
        ),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(-1, width)),),
    )
    made = OpenVINOEngine()
    made.load(tmp_path, signature, "f32", 0)
    return made


def test_read_only_inputs_are_alive_until_the_model_has_run(
    engine: OpenVINOEngine, width: int
) -> None:
    """Memory of an input that is given up too early is taken by what is decoded meanwhile."""
    rng = np.random.default_rng(0)
    over = threading.Event()

    def decode() -> None:
        while not over.is_set():
            for _ in range(50):
                np.full((2, width), 1e30, np.float32)

    beside = threading.Thread(target=decode)
    beside.start()
    try:
        for _ in range(20):
            whole = rng.standard_normal((INPUTS, 2, width)).astype(np.float32)
            body = whole.tobytes()
            arrays = {
                f"x{n}": np.frombuffer(
                    body, np.float32, 2 * width, offset=n * 2 * width * 4
                ).reshape(2, width)
                for n in range(INPUTS)
            }
            assert not any(array.flags.writeable for array in arrays.values())
            np.testing.assert_allclose(engine.infer(arrays)["y"], whole.sum(0), atol=1e-5)
    finally:
        over.set()
        beside.join()


def test_a_signal_harms_no_process_that_has_closed_a_model(tmp_path: Path) -> None:
    """Each plugin of OpenVINO takes a signal stack with it when it ends."""
    import openvino
    import openvino.opset13 as ops

    x = ops.parameter([-1, 4], np.float32)
    graph = openvino.Model([ops.result(ops.relu(x))], [x], "m")
    graph.inputs[0].set_names({"x"})
    graph.outputs[0].set_names({"y"})
    openvino.save_model(graph, tmp_path / "model.xml", compress_to_fp16=False)
    script = """
import signal, sys
from pathlib import Path
from lmaas.runtime.engine import make_engine
from lmaas.types import Signature, TensorSpec
ends = [(TensorSpec(name=name, dtype="float32", shape=(-1, 4)),) for name in "xy"]
for _ in range(3):
    engine = make_engine("openvino")
    engine.load(Path(sys.argv[1]), Signature(inputs=ends[0], outputs=ends[1]), "f32", 0)
    engine.close()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
