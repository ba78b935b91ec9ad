"""Every verb of `lmaas`: what it prints, its JSON, its exit code, its errors."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from lmaas.cli import COMMANDS, main
from lmaas.client import Client
from lmaas.registry.lock import HomeLock
from vllm_environment import make_environment

PUBLISH = """
import sys, numpy as np, torch, lmaas
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(784, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
x = np.random.default_rng(0).random((4, 784), np.float32)
lmaas.publish(model, name="digits", task="image-classification", sample=x, home=sys.argv[1])
line = torch.nn.Linear(3, 2)
lmaas.publish(line, name="line", task="tensor", sample=torch.rand(4, 3), home=sys.argv[1])
"""


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        told: dict[str, str] = json.loads(self.err)["error"]
        return told


Run = Callable[..., Done]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("LMAAS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LMAAS_HOME", str(tmp_path / "empty"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `lmaas ARGV` in this process."""

    def call(*argv: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, out, err)

    return call


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the models `digits` and `line`, without a server."""
    folder = tmp_path_factory.mktemp("home")
    argv = [sys.executable, "-W", "ignore", "-c", PUBLISH, str(folder)]
    subprocess.run(argv, check=True, timeout=100)
    return folder


@pytest.fixture
def own(home: Path, tmp_path: Path) -> Path:
    """A copy of the home, to change."""
    return Path(shutil.copytree(home, tmp_path / "own"))


@pytest.fixture(scope="module")
def served(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with both models and a live server."""
    folder = Path(shutil.copytree(home, tmp_path_factory.mktemp("served") / "home"))
    argv = [sys.executable, "-m", "lmaas", "--home", str(folder), "serve", "--port", "0"]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (HomeLock.read(folder) or {}).get("url"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield folder
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    pixels = np.random.default_rng(1).integers(0, 255, (28, 28), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


VALUES = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The same two samples for `line` in every kind of file."""
    made = {kind: tmp_path / f"{kind}.{kind}" for kind in ("json", "npy", "safetensors")}
    made["call"] = tmp_path / "call.json"
    made["json"].write_text(json.dumps(VALUES.tolist()))
    made["call"].write_text(json.dumps({"inputs": {"input": VALUES.tolist()}}))
    np.save(made["npy"], VALUES)
    save_file({"input": VALUES}, made["safetensors"])
    return made


@pytest.fixture(params=["in process", "through the server"])
def either(request: pytest.FixtureRequest) -> Path:
    """A home without a server, and one with."""
    name = "home" if request.param == "in process" else "served"
    folder: Path = request.getfixturevalue(name)
    return folder


def test_predict_labels(run: Run, either: Path, digit: Path) -> None:
    done = run("--home", either, "predict", "digits", digit, "-p", "top_k=3", "--json", "-q")
    assert (done.code, done.err) == (0, "")
    assert [set(label) for label in done.json] == [{"label", "score"}] * 3
    assert done.json[0]["score"] >= done.json[1]["score"]
    table = run("predict", "digits", digit, "--home", either).out.splitlines()
    assert table[0].split() == ["label", "score"]
    assert table[1].split()[0] == done.json[0]["label"]


@pytest.mark.parametrize("kind", ["json", "call", "npy", "safetensors"])
def test_predict_tensors(run: Run, served: Path, files: dict[str, Path], kind: str) -> None:
    done = run("predict", "line", files[kind], "--home", served, "--json")
    assert done.code == 0, done.err
    assert np.shape(done.json["outputs"]["output_0"]) == (2, 2)
    text = run("predict", "line", files[kind], "--home", served)
    assert text.out.startswith("output_0: [[")


def test_predict_tensors_in_process(run: Run, home: Path, files: dict[str, Path]) -> None:
    answers = [
        run("-q", "predict", "line", files[kind], "--home", home, "--json").json
        for kind in ("json", "safetensors")
    ]
    np.testing.assert_allclose(
        answers[0]["outputs"]["output_0"], answers[1]["outputs"]["output_0"], rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["json", "npy", "safetensors"])
def test_predict_reads_standard_input(served: Path, files: dict[str, Path], kind: str) -> None:
    argv = [sys.executable, "-m", "lmaas", "predict", "line", "-", "--home", str(served), "--json"]
    with files[kind].open("rb") as file:
        done = subprocess.run(argv, stdin=file, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert np.shape(json.loads(done.stdout)["outputs"]["output_0"]) == (2, 2)


def test_predict_needs_no_more_than_a_call_key(run: Run, served: Path, digit: Path) -> None:
    key = run("keys", "create", "--name", "caller", "--home", served, "--json").json
    url = (HomeLock.read(served) or {})["url"]
    done = run("--url", url, "--key", key["key"], "predict", "digits", digit, "--json")
    assert done.code == 0, done.err
    refused = run("--url", url, "--key", key["key"], "ps")
    assert refused.code == 4
    assert run("keys", "revoke", key["id"], "--home", served).code == 0
    assert run("--url", url, "--key", key["key"], "predict", "digits", digit).code == 4
    assert run("--url", url, "predict", "digits", digit).code == 4


def test_no_key_of_a_command_is_left(run: Run, served: Path) -> None:
    assert run("ps", "--home", served).code == 0
    names = [key["name"] for key in run("keys", "list", "--home", served, "--json").json]
    assert names == ["first admin key"]
    every = run("keys", "list", "--home", served, "--json", "--all").json
    assert {key["name"] for key in every if key["revoked_at"]} >= {"lmaas command line"}


@pytest.mark.parametrize(
    ("content", "name", "options", "code", "told"),
    [
        (b"{", "x.json", (), 1, "not valid JSON"),
        (b"no", "x.npy", (), 1, ".npy"),
        (b"no", "x.safetensors", (), 1, ".safetensors"),
        (b"no", "x.png", (), 1, "not an image"),
        (b"[[1, 2]]", "x.json", (), 1, "[-1, 3]"),
        (b"[[1, 2, 3]]", "x.json", ("-p", "top_k=3"), 1, "top_k"),
        (b"[[1, 2, 3]]", "x.json", ("-p", "top_k"), 2, "NAME=VALUE"),
        (None, "missing.png", (), 1, "There is no file"),
    ],
)
def test_predict_refuses(
    run: Run,
    served: Path,
    tmp_path: Path,
    content: bytes | None,
    name: str,
    options: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    model = "line" if name == "x.json" else "digits"
    done = run("predict", model, file, *options, "--home", served)
    assert done.code == code
    assert told in done.err
    assert done.out == ""


def test_predict_refuses_pickles(run: Run, served: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    np.save(file, np.array([{}], object), allow_pickle=True)
    done = run("predict", "line", file, "--home", served)
    assert done.code == 1
    assert "numpy.save" in done.err


def test_unknown_model_says_which_was_meant(run: Run, either: Path, digit: Path) -> None:
    done = run("-q", "predict", "digit", digit, "--home", either, "--json")
    assert done.code == 3
    assert done.error["code"] == "model_not_found"
    assert "digits" in done.error["message"] + str(done.error["hint"])


def test_ps_and_stop(run: Run, served: Path, digit: Path) -> None:
    assert run("predict", "digits", digit, "--home", served).code == 0
    listed = run("ps", "--home", served, "--json")
    assert "digits:1" in [worker["model"] for worker in listed.json]
    header, *rows = run("ps", "--home", served).out.splitlines()
    assert header.split()[:4] == ["model", "state", "engine", "variant"]
    (reason,) = [w["reason"] for w in listed.json if w["model"] == "digits:1"]
    assert reason
    assert [row for row in rows if row.startswith("digits:1 ") and row.endswith(reason)]
    assert run("stop", "digits", "--home", served, "--json").json["name"] == "digits"
    again = run("stop", "digits", "--home", served)
    assert again.code == 3
    assert "digits:1 is not loaded" in again.err
    assert "lmaas ps" in again.err
    workers = run("ps", "--home", served, "--json").json
    assert "digits:1" not in [worker["model"] for worker in workers]


@pytest.mark.parametrize("argv", [("ps",), ("stop", "digits")])
def test_no_server(run: Run, home: Path, argv: tuple[str, ...]) -> None:
    done = run(*argv, "--home", home)
    assert done.code == 6
    assert "lmaas serve" in done.err
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    gone = run("--url", url, *argv, "--json")
    assert gone.code == 6
    assert gone.error["code"] == "unavailable"


def test_models(run: Run, own: Path) -> None:
    listed = run("models", "list", "--home", own, "--json").json
    assert [model["name"] for model in listed] == ["digits", "line"]
    table = run("models", "list", "--home", own).out
    assert "12,730" in table
    assert run("models", "alias", "digits", "production", 1, "--home", own).code == 0
    assert "production" in run("models", "show", "digits", "--home", own).out
    shown = run("models", "show", "digits", "--home", own, "--json").json
    assert shown[0]["aliases"] == ["production"]
    held = run("models", "rm", "digits", "--yes", "--home", own)
    assert held.code == 1
    assert "--force" in held.err
    gone = run("models", "rm", "digits", "--yes", "--force", "--home", own, "--json")
    assert [version["name"] for version in gone.json] == ["digits"]
    assert run("models", "show", "digits", "--home", own).code == 3


def test_rm_asks_and_is_refused_where_nobody_can_answer(own: Path) -> None:
    argv = [sys.executable, "-m", "lmaas", "models", "rm", "line", "--home", str(own)]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert b"--yes" in done.stderr
    for answer, code in ((b"n\n", 1), (b"y\n", 0)):
        keyboard, terminal = os.openpty()
        os.write(keyboard, answer)
        asked = subprocess.run(argv, stdin=terminal, capture_output=True, timeout=60, check=False)
        os.close(keyboard)
        os.close(terminal)
        assert asked.returncode == code
        assert b"Remove line" in asked.stderr
        assert (b"Removed line:1." in asked.stdout) == (code == 0)


def test_keys(run: Run, tmp_path: Path) -> None:
    text = run("keys", "create", "--name", "a", "--home", tmp_path).out.strip()
    assert text.startswith("sk-lmaas-")
    made = run("keys", "create", "--name", "b", "--scope", "admin", "--home", tmp_path, "--json")
    assert made.json["scopes"] == ["admin"]
    listed = run("keys", "list", "--home", tmp_path)
    assert text not in listed.out
    assert made.json["id"] in listed.out
    assert run("keys", "revoke", made.json["id"], "--home", tmp_path).code == 0
    assert made.json["id"] not in run("keys", "list", "--home", tmp_path).out
    assert made.json["id"] in run("keys", "list", "--all", "--home", tmp_path).out
    missing = run("keys", "revoke", "nonsense", "--home", tmp_path, "--json")
    assert missing.code == 3
    assert "keys list" in missing.error["hint"]


def test_push_says_what_it_cannot_take(run: Run, tmp_path: Path) -> None:
    options = ("--name", "x", "--task", "tensor", "--home", tmp_path)
    missing = run("push", tmp_path / "nothing.keras", *options)
    assert missing.code == 1
    assert "does not exist" in missing.err
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04.")
    refused = run("-q", "push", tmp_path / "x.pkl", *options, "--json")
    assert refused.code == 1
    assert refused.error["hint"]
    assert run("push", tmp_path / "x.pkl").code == 2


def test_fsck_finds_a_flipped_byte(run: Run, own: Path) -> None:
    good = run("fsck", "--home", own, "--json")
    assert (good.code, good.json["damaged"]) == (0, [])
    version = run("models", "show", "line", "--home", own, "--json").json[0]
    sha256 = next(file["sha256"] for file in version["files"] if file["path"].endswith(".bin"))
    (blob,) = [path for path in own.rglob("*") if path.name in (sha256, sha256[2:])]
    blob.chmod(0o600)
    blob.write_bytes(b"\xff" + blob.read_bytes()[1:])
    bad = run("fsck", "--home", own)
    assert bad.code == 1
    assert sha256 in bad.out
    assert "line:1" in bad.out
    sick = run("doctor", "--home", own, "--json")
    assert sick.code == 1
    status = {check["name"]: check["status"] for check in sick.json["checks"]}
    assert status["database"] == "fail"


def test_doctor(run: Run, own: Path) -> None:
    done = run("doctor", "--home", own, "--json")
    checks = {check["name"]: check for check in done.json["checks"]}
    assert done.code == 0, checks
    assert set(checks) >= {
        "python", "openvino", "torch", "keras", "tensorflow", "cpu", "memory", "isolation",
        "home", "lock", "database", "keys", "port",
    }  # fmt: skip
    assert checks["keys"]["status"] == "warn"
    assert "keys create" in checks["keys"]["next_step"]
    header = run("doctor", "--home", own).out.splitlines()[0]
    assert header.split() == ["check", "status", "found", "next"]


def test_doctor_looks_into_the_environment_of_vllm(
    run: Run, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vllm(python: Path, engine: str = "auto") -> dict[str, str]:
        monkeypatch.setenv("LMAAS_VLLM_PYTHON", str(python))
        monkeypatch.setenv("LMAAS_ENGINE", engine)
        checks = run("doctor", "--home", own, "--json").json["checks"]
        (found,) = [check for check in checks if check["name"] == "vllm"]
        return dict(found)

    assert "no such file" in vllm(tmp_path / "none")["found"]
    bare = vllm(make_environment(tmp_path / "bare", vllm=False).python)
    assert (bare["status"], "pip install vllm" in bare["next_step"]) == ("fail", True)
    environment = make_environment(tmp_path / "environment")
    found = vllm(environment.python, "vllm")
    assert (found["status"], found["found"]) == ("ok", "0.0 with torch 2.0+cpu, built for CPUs")
    assert vllm(environment.python)["status"] == "warn"
    environment.module.write_text("raise ImportError('no libcuda')")
    broken = vllm(environment.python, "vllm")
    assert (broken["status"], "no libcuda" in broken["found"]) == ("fail", True)


def test_doctor_names_who_has_the_port(
    run: Run, served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def port(home: Path) -> dict[str, str]:
        checks = run("doctor", "--home", home, "--json").json["checks"]
        found: dict[str, str] = checks[-1]
        return found

    live = HomeLock.read(served) or {}
    assert str(live["pid"]) in port(served)["found"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("LMAAS_PORT", str(taken.getsockname()[1]))
        assert port(tmp_path)["status"] == "warn"


def test_doctor_fails_on_a_home_that_cannot_be(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("doctor", "--home", tmp_path / "file" / "home", "--json")
    assert done.code == 1
    assert done.json["checks"][-2]["name"] == "home"
    assert done.json["checks"][-2]["status"] == "fail"
    other = run("models", "list", "--home", tmp_path / "file" / "home", "--json")
    assert other.code == 1
    assert other.error["code"] == "system_error"


def test_serve_refuses_a_taken_port_and_a_taken_home(served: Path, tmp_path: Path) -> None:
    def serve(home: Path, port: int) -> Done:
        argv = [sys.executable, "-m", "lmaas", "serve", "--port", str(port), "--home", str(home)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return Done(done.returncode, done.stdout, done.stderr)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        no_port = serve(tmp_path, port)
    assert no_port.code == 1
    assert "--port" in no_port.err
    second = serve(served, 0)
    assert second.code == 1
    assert "LMAAS_HOME" in second.err


def test_wrong_usage(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typo = run("predicct")
    assert typo.code == 2
    assert "Did you mean 'predict'?" in typo.err
    assert "Commands:" in run("zzzzzz").err
    assert run("zzzzzz", "--json").error["code"] == "usage"
    assert "list" in run("models", "lst").err
    assert run("ps", "--nonsense").code == 2
    assert run("--url", "http://127.0.0.1:1", "fsck", "--home", home).code == 2
    monkeypatch.setenv("LMAAS_PROT", "1")
    setting = run("models", "list", "--home", home, "--json")
    assert setting.code == 2
    assert setting.error["hint"] == "Did you mean port?"


def test_an_unexpected_failure_is_short(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(self: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(Client, "ps", explode)
    monkeypatch.setenv("LMAAS_KEY", "x")
    short = run("--url", "http://127.0.0.1:1", "ps")
    assert short.code == 1
    assert short.err.splitlines()[0] == "Error: RuntimeError: boom"
    assert "Traceback" not in short.err
    monkeypatch.setenv("LMAAS_LOG_LEVEL", "debug")
    assert "Traceback" in run("--url", "http://127.0.0.1:1", "ps").err


def test_help_names_every_command_and_exit_code(run: Run) -> None:
    text = run("--help").out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert {"0", "1", "2", "3", "4", "5", "6", "130"} <= set(text.split())
    assert run("--version").code == 0
    for name in COMMANDS:
        assert run(name, "--help").code == 0


def test_a_reader_that_goes_away_gets_no_complaint(home: Path) -> None:
    argv = [sys.executable, "-m", "lmaas", "models", "list", "--home", str(home)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("code", ["import lmaas", "from lmaas.cli import main; main(['--help'])"])
def test_starts_light(code: str) -> None:
    tell = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    argv = [sys.executable, "-c", f"{tell}; {code}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    loaded = {name.split(".")[0] for name in done.stderr.split()}
    assert "lmaas" in loaded
    assert not loaded & {
        "torch", "tensorflow", "keras", "openvino", "numpy", "sqlalchemy", "rich", "httpx",
        "starlette", "uvicorn", "PIL",
    }  # fmt: skip


def test_interrupt_is_130(own: Path) -> None:
    argv = [sys.executable, "-m", "lmaas", "models", "rm", "line", "--home", str(own)]
    keyboard, terminal = os.openpty()
    with subprocess.Popen(
        argv,
        stdin=terminal,
        stderr=subprocess.PIPE,
        # What a shell puts in the background ignores SIGINT, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr
        said = b""
        while b"Remove line" not in said:
            said += process.stderr.read(1)
        # A signal between Python's last look and its blocking read waits for the next one.
        # A second one while the first is told would be another interrupt.
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        said += process.stderr.read()
    os.close(keyboard)
    os.close(terminal)
    assert process.returncode == 130
    assert b"Traceback" not in said
