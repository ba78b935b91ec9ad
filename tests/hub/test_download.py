"""Downloads from a hub: what is taken, what is refused, and going on after every kind of end."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from hub_server import Hub, commit_of, running_hub
from lmaas.errors import (
    BadGateway,
    Cancelled,
    ConfigError,
    Conflict,
    Forbidden,
    InvalidInput,
    LMaaSError,
    ModelNotFound,
    ModelRefused,
    NotFound,
    RateLimited,
    StorageFull,
    Unavailable,
)
from lmaas.hub import download as hub_download
from lmaas.hub.api import own_token
from lmaas.hub.pull import Pulled, download, locked
from lmaas.hub.repo import default_name, parse_ref
from lmaas.types import PullProgress

WEIGHTS = "model.safetensors"
REPO = "acme/Tiny.One"

Pull = Callable[..., Pulled]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(hub_download, "FIRST_PAUSE_S", 0.01)
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a checkpoint, with 400 kB of weights and what is never taken."""
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "onnx").mkdir()
    for name, text in {
        "config.json": '{"architectures": ["LlamaForCausalLM"]}',
        "tokenizer.json": "{}",
        "tokenizer_config.json": "{}",
        "README.md": "# Tiny\nGrüße.",
        "LICENSE": "free",
        "LICENSE.py": "raise SystemExit",
        "1_Pooling/config.json": "{}",
        "modeling_tiny.py": "raise SystemExit",
        "pytorch_model.bin": "pickle",
        "onnx/model.onnx": "onnx",
        "onnx/config.json": "{}",
        "tiny.gguf": "gguf",
        ".gitattributes": "",
        "added_tokens.json": "{}",
        "chat_template.jinja": "",
    }.items():
        (folder / name).write_text(text, "utf-8")
    numbers = np.random.default_rng(0).integers(0, 255, 400_000, np.uint8)
    save_file({"weight": numbers}, folder / WEIGHTS)
    return folder


@pytest.fixture
def pull(tmp_path: Path) -> Pull:
    folder = tmp_path / "hub"

    def run(text: str = REPO, **options: Any) -> Pulled:
        ref = parse_ref(text)
        told: dict[str, Any] = {
            "token": own_token(),
            "task": None,
            "heard": lambda _: None,
            "stop": threading.Event(),
        }
        with locked(folder, ref):
            return download(ref, folder, **(told | options))

    return run


def weights_of(hub: Hub) -> bytes:
    return hub.repos[REPO][WEIGHTS]


def part_of(tmp_path: Path) -> Path:
    return next((tmp_path / "hub").rglob(f"{WEIGHTS}.part"))


def test_only_what_serves_is_downloaded_of_one_commit(hub: Hub, model: Path, pull: Pull) -> None:
    commit = hub.add(REPO, model)
    heard: list[PullProgress] = []
    pulled = pull(heard=heard.append)
    folder = Path(pulled.folder)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "added_tokens.json",
        "chat_template.jinja", "README.md", "LICENSE", "1_Pooling/config.json", WEIGHTS,
    }  # fmt: skip
    assert all((folder / name).read_bytes() == (model / name).read_bytes() for name in names)
    assert pulled.source == f"hf:{REPO}@{commit}"
    assert (pulled.task, pulled.card) == ("text-generation", "# Tiny\nGrüße.")
    assert heard[-1].done_bytes == heard[-1].total_bytes == sum(
        (model / name).stat().st_size for name in names
    )  # fmt: skip
    asked = [path for _, path, _ in hub.asked]
    assert asked[0] == f"/api/models/{REPO}/revision/main?blobs=true"
    assert all(f"/resolve/{commit}/" in path for path in asked[1:])


def test_nothing_is_told_of_this_machine(hub: Hub, model: Path, pull: Pull) -> None:
    hub.add(REPO, model)
    pull()
    for _, path, headers in hub.asked:
        assert path.startswith((f"/api/models/{REPO}/", f"/{REPO}/resolve/"))
        assert headers["user-agent"].startswith("lmaas/")
        assert set(headers) <= {"host", "user-agent", "accept", "accept-encoding", "connection"}


def test_a_revision_is_pinned_to_its_commit(hub: Hub, model: Path, pull: Pull) -> None:
    first = hub.add(REPO, model)
    (model / "README.md").write_text("# Second")
    second = hub.add(REPO, model)
    assert pull(f"{REPO}@{first}").card == "# Tiny\nGrüße."
    assert pull(REPO).source == f"hf:{REPO}@{second}"
    with pytest.raises(NotFound, match="no revision 'v9'"):
        pull(f"{REPO}@v9")


@pytest.mark.parametrize(
    ("files", "task"),
    [
        ({"config.json": '{"architectures": ["Qwen3ForCausalLM"]}'}, "text-generation"),
        (
            {"config.json": '{"architectures": ["Qwen3ForCausalLM"]}', "modules.json": "[]"},
            "embedding",
        ),
        ({"config.json": '{"architectures": ["BertModel"]}'}, "embedding"),
        (
            {"config.json": '{"architectures": ["BertForSequenceClassification"]}'},
            "text-ranking",
        ),
    ],
)
def test_the_task_is_told_by_the_configs(
    hub: Hub, model: Path, pull: Pull, files: dict[str, str], task: str
) -> None:
    for name, text in files.items():
        (model / name).write_text(text)
    hub.add(REPO, model)
    assert pull().task == task


def test_without_a_task_no_weights_are_downloaded(hub: Hub, model: Path, pull: Pull) -> None:
    (model / "config.json").write_text('{"architectures": ["DecisionTransformerModelX"]}')
    hub.add(REPO, model)
    with pytest.raises(InvalidInput, match="No task is known"):
        pull()
    assert WEIGHTS not in hub.served
    assert pull(task="embedding").task == "embedding"


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ('{"architectures": ["XForCausalLM"], "auto_map": {"AutoModel": "x.X"}}', "has auto_map"),
        ('{"architectures": ["XForCausalLM"], "quantization_config": {"a": 1}}', "quantised"),
        ("[1", "is not JSON"),
    ],
)
def test_what_the_configs_rule_out_costs_no_weights(
    hub: Hub, model: Path, pull: Pull, config: str, match: str
) -> None:
    (model / "config.json").write_text(config)
    hub.add(REPO, model)
    with pytest.raises(ModelRefused, match=match):
        pull()
    assert WEIGHTS not in hub.served


def test_redirects_in_a_circle(hub: Hub, model: Path, pull: Pull) -> None:
    hub.add(REPO, model)
    hub.content_host = hub.url
    with pytest.raises(Unavailable, match="redirects"):
        pull()


def test_shards_are_taken_once(hub: Hub, model: Path, pull: Pull) -> None:
    content = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).unlink()
    (model / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    for name in ("model-00001-of-00002", "model-00002-of-00002", "consolidated"):
        (model / f"{name}.safetensors").write_bytes(content)
    hub.add(REPO, model)
    names = {path.name for path in Path(pull().folder).iterdir()}
    assert {"model-00001-of-00002.safetensors", "model.safetensors.index.json"} <= names
    assert "consolidated.safetensors" not in names


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ("pytorch_model.bin", "only as 'pytorch_model.bin', which may run code"),
        ("tiny.gguf", "only as 'tiny.gguf'"),
        (None, "has no weights"),
    ],
)
def test_without_safetensors_nothing_is_downloaded(
    hub: Hub, model: Path, pull: Pull, weights: str | None, match: str
) -> None:
    for path in model.rglob("*"):
        if path.suffix in (".safetensors", ".bin", ".gguf", ".onnx") and path.name != weights:
            path.unlink()
    hub.add(REPO, model)
    with pytest.raises(ModelRefused, match=match):
        pull()
    assert not hub.served


def test_a_gated_model_needs_a_token_that_was_let_in(
    hub: Hub, model: Path, pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, model)
    hub.gated, hub.token = {REPO}, "hf_right"
    with pytest.raises(Forbidden, match="is gated") as caught:
        pull()
    assert f"{hub.url}/{REPO}" in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(Forbidden, match="is gated") as caught:
        pull()
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert pull().task == "text-generation"


def test_the_token_does_not_follow_to_another_host(
    hub: Hub, model: Path, pull: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, model)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with running_hub() as other:
        other.add(REPO, model)
        other.breaks[WEIGHTS] = [100_000]
        hub.content_host = other.url
        pull()
    assert other.served[WEIGHTS] == len(weights_of(hub))
    assert [headers.get("range") for _, _, headers in other.asked] == [None, "bytes=100000-"]
    assert all("authorization" not in headers for _, _, headers in other.asked)
    assert all(headers["authorization"] == "Bearer hf_right" for _, _, headers in hub.asked)


def test_missing_models_and_hubs(hub: Hub, pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFound, match="has no model acme/nothing"):
        pull("acme/nothing")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"No answer from the hub http://127\.0\.0\.1:9"):
        pull()
    monkeypatch.setenv("HF_ENDPOINT", "ftp://hub")
    with pytest.raises(ConfigError, match="expected the address of a hub"):
        pull()


@pytest.mark.parametrize(
    "text",
    ["tiny", "acme/tiny/x", "../tiny", "acme/..", "acme/", "/tiny", "acme/ti ny", "acme/tiny@",
     "acme/tiny@a\nb", "acme/tïny", "acme/a--b", "acme/a..b", "https://hub/acme/tiny"],
)  # fmt: skip
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_ref(text)


def test_a_model_is_called_as_on_the_hub() -> None:
    assert default_name(parse_ref("Qwen/Qwen3-0.6B@main")) == "qwen3-0.6b"


@pytest.mark.parametrize(
    "name",
    ["../config.json", "/etc/config.json", "a/../../tokenizer.json", "..\\merges.txt",
     "LICENSE/../../x", "./config.json", "a//b", "", "x" * 300, "config.json\x00", "config.json"],
)  # fmt: skip
def test_files_that_leave_the_folder(hub: Hub, model: Path, pull: Pull, name: str) -> None:
    hub.add(REPO, model)
    hub.extra = [{"rfilename": name, "size": 1, "blobId": "0" * 40}]
    with pytest.raises(ModelRefused, match=r"leaves its folder|twice"):
        pull()
    assert not hub.served


@pytest.mark.parametrize(
    "listing",
    [b"<html>", b"[]", b"{}", b'{"sha": "main", "siblings": []}', b"[" * 100_000,
     b'{"sha": "%s", "siblings": [{"rfilename": "config.json"}]}' % (b"0" * 40),
     b'{"sha": "%s", "siblings": [{"rfilename": "c", "size": -1, "blobId": "%s"}]}'
     % (b"0" * 40, b"0" * 40)],
)  # fmt: skip
def test_a_listing_that_is_none(hub: Hub, model: Path, pull: Pull, listing: bytes) -> None:
    hub.add(REPO, model)
    hub.listing = listing
    with pytest.raises(Unavailable, match="does not describe"):
        pull()


def test_a_size_that_does_not_fit_is_told_before_the_download(
    hub: Hub, model: Path, pull: Pull
) -> None:
    hub.add(REPO, model)
    hub.told[WEIGHTS] = {"lfs": {"sha256": "0" * 64, "size": 1 << 60}}
    with pytest.raises(StorageFull, match=r"needs 1,152,921,504,606,[\d,]+ more bytes .* free"):
        pull()
    assert not hub.served


def test_a_hub_that_lies_about_a_digest(hub: Hub, model: Path, pull: Pull, tmp_path: Path) -> None:
    hub.add(REPO, model)
    hub.wrong_bytes = {WEIGHTS}
    with pytest.raises(BadGateway, match=rf"{WEIGHTS} of {REPO} has the sha256 \w{{64}}; the hub"):
        pull()
    assert not [path for path in (tmp_path / "hub").rglob(f"{WEIGHTS}*")]
    hub.wrong_bytes = {"config.json"}
    next((tmp_path / "hub").rglob("config.json")).unlink()
    with pytest.raises(BadGateway, match=r"config\.json of .* has the git sha1 \w{40}; the hub"):
        pull()
    hub.wrong_bytes = set()
    assert pull().task == "text-generation"


def test_what_is_there_is_not_downloaded_again(hub: Hub, model: Path, pull: Pull) -> None:
    hub.add(REPO, model)
    pulled = pull()
    asked = len(hub.asked)
    assert pull() == pulled
    assert len(hub.asked) == asked + 1


def test_a_file_that_was_changed_on_disk_is_found(hub: Hub, model: Path, pull: Pull) -> None:
    hub.add(REPO, model)
    path = Path(pull().folder) / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadGateway):
        pull()
    pull()
    assert path.read_bytes() == weights_of(hub)


def test_a_hub_that_says_too_small_a_size_writes_no_more(
    hub: Hub, model: Path, pull: Pull, tmp_path: Path
) -> None:
    hub.add(REPO, model)
    hub.told[WEIGHTS] = {"lfs": {"sha256": "0" * 64, "size": 10}}
    with pytest.raises(BadGateway):
        pull()


def test_what_breaks_off_goes_on(hub: Hub, model: Path, pull: Pull) -> None:
    hub.add(REPO, model)
    hub.breaks[WEIGHTS] = [0, 50_000, 100_000]
    hub.status[WEIGHTS] = [503]
    pulled = pull()
    assert (Path(pulled.folder) / WEIGHTS).read_bytes() == weights_of(hub)
    assert hub.served[WEIGHTS] == len(weights_of(hub))


def test_a_hub_that_breaks_off_always(hub: Hub, model: Path, pull: Pull, tmp_path: Path) -> None:
    hub.add(REPO, model)
    hub.breaks[WEIGHTS] = [1000] * 100
    with pytest.raises(Unavailable, match=r"broke off after 6,000 of .* bytes, 6 times") as caught:
        pull()
    assert "continues" in str(caught.value)
    assert part_of(tmp_path).stat().st_size == 6000
    hub.breaks = {}
    pull()
    assert hub.served[WEIGHTS] == len(weights_of(hub))


def test_a_hub_without_ranges(hub: Hub, model: Path, pull: Pull) -> None:
    hub.add(REPO, model)
    hub.ignores_ranges = True
    hub.breaks[WEIGHTS] = [50_000]
    assert (Path(pull().folder) / WEIGHTS).read_bytes() == weights_of(hub)


def test_a_hub_that_is_tired(hub: Hub, model: Path, pull: Pull) -> None:
    hub.add(REPO, model)
    hub.status[WEIGHTS] = [429]
    with pytest.raises(RateLimited, match="no more requests"):
        pull()
    hub.status[WEIGHTS] = [404] * 10
    with pytest.raises(Unavailable, match=r"a file of .* that it does not have"):
        pull()


def test_one_pull_of_a_model_at_a_time(hub: Hub, model: Path, pull: Pull, tmp_path: Path) -> None:
    hub.add(REPO, model)
    with locked(tmp_path / "hub", parse_ref(REPO)), pytest.raises(Conflict, match="by process"):
        pull()
    pull()


def test_stopped_it_stays_resumable(hub: Hub, model: Path, pull: Pull, tmp_path: Path) -> None:
    hub.add(REPO, model)
    hub.holds[WEIGHTS] = 100_000
    stop, ended = threading.Event(), list[LMaaSError]()

    def run() -> None:
        try:
            pull(stop=stop)
        except LMaaSError as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert hub.held.wait(30)
    deadline = time.monotonic() + 30
    while part_of(tmp_path).stat().st_size < 100_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stop.set()
    hub.release.set()
    thread.join(30)
    assert isinstance(ended[0], Cancelled)
    there = part_of(tmp_path).stat().st_size
    assert there >= 100_000
    assert (Path(pull().folder) / WEIGHTS).read_bytes() == weights_of(hub)
    assert hub.asked[-1][2]["range"] == f"bytes={there}-"


def test_the_library_itself_speaks_with_the_test_hub(hub: Hub, model: Path) -> None:
    """The hub of these tests answers as huggingface_hub expects it."""
    hub.add(REPO, model)
    answer = httpx.get(f"{hub.url}/api/models/{REPO}", params={"blobs": "true"})
    from huggingface_hub import hf_api

    parse: Any = hf_api.ModelInfo
    info = parse(**answer.json())
    assert info.sha == commit_of(hub.repos[REPO])
    assert {file.rfilename for file in info.siblings} == set(hub.repos[REPO])
