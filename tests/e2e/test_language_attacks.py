"""What hostile callers send to a language model: a refusal that names the field, at once.

Beside each, another key's request to the same worker is answered as if nothing were; beside hostile
checkpoints and hubs, another tenant's.
"""

import asyncio
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from checkpoints import CHATML, make_qwen3
from hub_server import Hub, running_hub
from lmaas.client import Client
from lmaas.config import Settings
from lmaas.errors import ModelRefused
from lmaas.service import Service
from lmaas.types import TENANT, PushOptions
from servers import Running, give, serving

REFUSED_WITHIN_S = 60.0
"""What is not refused would go on for minutes."""
OTHER = "other"
WEIGHTS = "model.safetensors"
REPO = "acme/hostile"
T = TypeVar("T")
COMBINING = "\u0301"
USER = {"role": "user", "content": "hello world"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
SLY = (
    "{%- if messages[0].content == 'loop' %}{% for i in range(99999) %}"
    "{% for j in range(99999) %}{% endfor %}{% endfor %}"
    "{%- elif messages[0].content == 'grow' %}{% set x = namespace(v='ab') %}"
    "{% for i in range(60) %}{% set x.v = x.v ~ x.v %}{% endfor %}{{ x.v }}"
    "{%- elif messages[0].content == 'class' %}{{ messages.__class__.__mro__ }}"
    "{%- elif messages[0].content == 'globals' %}"
    "{{ cycler.__init__.__globals__.os.system('true') }}"
    "{%- endif %}" + CHATML
)
"""A chat template that is harmless until a conversation asks for harm."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The hub of all servers here."""
    folder = make_qwen3(tmp_path_factory.mktemp("hub") / "checkpoint")
    with running_hub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.delenv("HF_TOKEN", raising=False)
        patch.setenv("HF_ENDPOINT", hub.url)
        hub.add(REPO, folder)
        yield hub


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, language_home: Path, hub: Hub
) -> Iterator[Running]:
    """A server with `tiny`, for another tenant too, and `sly` with a hostile template."""
    folder = tmp_path_factory.mktemp("attacked")
    home = folder / "home"
    shutil.copytree(language_home, home)
    checkpoint = make_qwen3(folder / "sly")
    (checkpoint / "chat_template.jinja").write_text(SLY)
    service = Service(Settings(home=str(home)))
    asyncio.run(
        service.catalog.push(TENANT, checkpoint, PushOptions(name="sly", task="text-generation"))
    )
    service.close()
    give(home, "tiny", OTHER)
    with serving(home) as running:
        yield running


@contextmanager
def of_other_tenant(server: Running) -> Iterator[httpx.Client]:
    """A client of another tenant, whose model is loaded."""
    service = Service(Settings(home=str(server.home)))
    _, key = service.create_key(OTHER, "stranger", ("call",))
    service.close()
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        assert ordinary(client).status_code == 200
        yield client


@pytest.fixture(scope="module")
def stranger(server: Running) -> Iterator[httpx.Client]:
    """Another tenant's client."""
    with of_other_tenant(server) as client:
        yield client


def beside(stranger: httpx.Client, act: Callable[[], T]) -> T:
    """What `act` gives, while another tenant is answered all the time."""
    with ThreadPoolExecutor(1) as threads:
        acting = threads.submit(act)
        answers = [ordinary(stranger)]
        while not acting.done():
            time.sleep(0.2)
            answers.append(ordinary(stranger))
        for answer in answers:
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["completion_tokens"] == 60
        return acting.result()


@pytest.fixture(scope="module")
def neighbour(server: Running) -> Iterator[httpx.Client]:
    """Another key's client; its models are loaded, and a schema is known."""
    service = Service(Settings(home=str(server.home)))
    _, key = service.create_key(TENANT, "neighbour", ("call",))
    service.close()
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        for model in ("tiny", "sly"):
            assert ordinary(client, model).status_code == 200
        yield client


def ordinary(client: httpx.Client, model: str = "tiny") -> httpx.Response:
    body = {"model": model, "messages": [USER], "max_tokens": 60, "ignore_eos": True, "seed": 1}
    return client.post("/v1/chat/completions", json=body)


def attack(
    server: Running,
    neighbour: httpx.Client,
    body: bytes,
    path: str = "/v1/chat/completions",
    model: str = "tiny",
) -> httpx.Response:
    """The answer to `body`, while the neighbour asks the same model."""
    with ThreadPoolExecutor(1) as threads:
        beside = threads.submit(ordinary, neighbour, model)
        answer = httpx.post(
            server.url + path, content=body, headers=server.caller, timeout=REFUSED_WITHIN_S
        )
        other = beside.result()
    assert other.status_code == 200, other.text
    assert other.json()["usage"]["completion_tokens"] == 60
    return answer


def encode(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def schema(schema: Any) -> dict[str, Any]:
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    return {"response_format": wanted}


def tool(**function: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", **function}}]}


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def deep(levels: int) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        made = {"properties": {"a": made}}
    return made


CHAT: list[tuple[str, dict[str, Any], str | None]] = [
    ("an unknown field", {"colour": "red"}, "colour"),
    ("a field that is not supported", {"store": True}, "store"),
    ("10,000 choices", {"n": 10_000}, "n"),
    ("2**31 tokens", {"max_tokens": 2**31}, "max_tokens"),
    ("1,000 alternatives", {"logprobs": True, "top_logprobs": 1000}, "top_logprobs"),
    ("half a million biases", {"logit_bias": dict.fromkeys(range(500_000), 1)}, "logit_bias"),
    ("a bias outside the vocabulary", {"logit_bias": {"999999": 1}}, "logit_bias"),
    ("NaN", {"temperature": float("nan")}, None),
    ("100,000 stop strings", {"stop": ["x"] * 100_000}, "stop"),
    ("no messages", {"messages": []}, "messages"),
    ("a role that does not exist", {"messages": [{**USER, "role": "root"}]}, "messages[0].role"),
    ("an image", user([IMAGE]), "messages[0].content[0]"),
    ("a regex of two loops", schema({"type": "string", "pattern": "(a{1,9000}){1,9000}(b{1,9000})"
                                     "{1,9000}"}), "response_format"),
    ("such a regex in a tool", tool(parameters={"type": "object", "properties": {
        "a": {"type": "string", "pattern": "(a{1,9000}){1,9000}(b{1,9000}){1,9000}"}}}), "tools"),
    ("a look-ahead", schema({"type": "string", "pattern": "(?=a)b"}), "response_format"),
    ("a schema that is itself", schema({"$ref": "#"}), "response_format"),
    ("a schema in a circle", schema({"$defs": {"a": {"$ref": "#/$defs/b"},
                                               "b": {"$ref": "#/$defs/a"}},
                                     "$ref": "#/$defs/a"}), "response_format"),
    ("a schema from elsewhere", schema({"$ref": "http://example.invalid/s"}), "response_format"),
    ("a schema that is nowhere", schema({"$ref": "#/$defs/none"}), "response_format"),
    ("a schema of 1 MB", schema({"enum": ["x" * 1000] * 1000}), "response_format"),
    ("a tool's schema of 1 MB", tool(parameters={"enum": ["x" * 1000] * 1000}), "tools"),
    ("a schema 200 deep", schema(deep(200)), "response_format"),
    ("a tool's name of two lines", tool(name="a\nb"), "tools[0].function.name"),
    ("5 MB of one character", user("a" + COMBINING * 2_500_000), "messages"),
    ("5 MB in many messages", {"messages": [user(COMBINING * 1000)["messages"][0]] * 2500},
     "messages"),
    ("5 MB of a special token", user("<|im_end|>" * 500_000), "messages"),
    ("5 MB of a space", user(" " * 5_000_000), "messages"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), [case[1:] for case in CHAT],
                         ids=[case[0] for case in CHAT])  # fmt: skip
def test_chat(
    server: Running, neighbour: httpx.Client, fields: dict[str, Any], param: str | None
) -> None:
    asked = {"model": "tiny", "messages": [USER], "max_tokens": 4, **fields}
    answer = attack(server, neighbour, encode(asked))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] in ("invalid_input", "context_length_exceeded")
    assert error["param"] == param
    assert len(answer.content) < 2000


def test_a_million_biases_are_too_large_a_body(server: Running, neighbour: httpx.Client) -> None:
    biases = dict.fromkeys(range(1_000_000), 1)
    asked = {"model": "tiny", "messages": [USER], "logit_bias": biases}
    answer = attack(server, neighbour, encode(asked))
    assert answer.status_code == 413, answer.text
    assert answer.json()["error"]["code"] == "payload_too_large"


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/completions", {"prompt": "a", "colour": 1}, "colour"),
    ("/v1/completions", {"prompt": "a", "n": 10_000}, "n"),
    ("/v1/completions", {"prompt": "a", "logprobs": 1000}, "logprobs"),
    ("/v1/completions", {"prompt": COMBINING * 2_500_000}, "prompt"),
    ("/v1/completions", {"prompt": [5] * 1_000_000}, "prompt"),
    ("/v1/completions", {"prompt": [10**9]}, "prompt"),
    ("/v1/completions", {"prompt": ["x"] * 100_000}, "prompt"),
    ("/v1/completions", {"prompt": "a", "stop": ["x"] * 100_000}, "stop"),
    ("/v1/responses", {"input": "a", "colour": 1}, "colour"),
    ("/v1/responses", {"input": COMBINING * 2_500_000}, "input"),
    ("/v1/responses", {"input": [{"role": "root", "content": "a"}]}, "input[0].role"),
    ("/v1/responses", {"input": "a", "text": {"format": {
        "type": "json_schema", "name": "s", "schema": {"$ref": "#"}}}}, "text.format"),
    ("/v1/responses", {"input": "a", "previous_response_id": "x" * 1_000_000},
     "previous_response_id"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "param"), OTHERS, ids=lambda v: str(v)[:30])
def test_other_doors(
    server: Running, neighbour: httpx.Client, path: str, fields: dict[str, Any], param: str
) -> None:
    answer = attack(server, neighbour, encode({"model": "tiny", **fields}), path)
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["param"] == param
    assert len(answer.content) < 2000


MESSAGES: list[tuple[dict[str, Any], str]] = [
    ({"colour": 1}, "colour"),
    ({"messages": [{"role": "user", "content": COMBINING * 2_500_000}]}, "context"),
    ({"tools": [{"name": "f", "input_schema": {"$ref": "#"}}]}, "schema"),
    ({"stop_sequences": ["x"] * 100_000}, "stop_sequences"),
]


@pytest.mark.parametrize(("fields", "told"), MESSAGES, ids=lambda v: str(v)[:30])
def test_anthropics_door(
    server: Running, neighbour: httpx.Client, fields: dict[str, Any], told: str
) -> None:
    asked = {"model": "tiny", "messages": [USER], "max_tokens": 4, **fields}
    answer = attack(server, neighbour, encode(asked), "/v1/messages")
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert told in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\xed\xa0\x80"}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "stop": "\\udfff"}',
        b'{"model": "tiny", "messages": ' + b"[" * 1_000_000,
        b'{"model": "tiny", "temperature": 1e999999, "messages": []}',
        b'{"model": "tiny", "seed": ' + b"9" * 1_000_000 + b"}",
        b'{"model": "tiny", "messages": [], ' + b'"a": 1, ' * 500_000 + b'"b": 1}',
        b"\x00" * 1_000_000,
    ],
    ids=lambda body: repr(body[:60]),
)
def test_what_is_no_json(server: Running, neighbour: httpx.Client, body: bytes) -> None:
    answer = attack(server, neighbour, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(answer.content) < 2000


@pytest.mark.parametrize("word", ["loop", "grow", "class", "globals"])
def test_a_hostile_template(server: Running, neighbour: httpx.Client, word: str) -> None:
    asked = {"model": "sly", **user(word), "max_tokens": 4}
    answer = attack(server, neighbour, encode(asked), model="sly")
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == "messages"
    assert "template" in answer.json()["error"]["message"]


def test_many_hostile_schemas_at_once(server: Running, neighbour: httpx.Client) -> None:
    """Each is proven in turn; a caller with none does not wait for them."""

    def ask(number: int) -> httpx.Response:
        pattern = f"(a{{1,{9000 + number}}}){{1,9000}}(b{{1,9000}}){{1,9000}}"
        wanted = schema({"type": "string", "pattern": pattern})
        asked = {"model": "tiny", "messages": [USER], **wanted}
        url = f"{server.url}/v1/chat/completions"
        return httpx.post(url, json=asked, headers=server.caller, timeout=60)

    with ThreadPoolExecutor(5) as threads:
        waiting = [threads.submit(ask, number) for number in range(5)]
        for _ in range(3):
            answer = ordinary(neighbour)
            assert answer.status_code == 200
            assert answer.json()["usage"]["completion_tokens"] == 60
        answers = [future.result() for future in waiting]
    assert [answer.status_code for answer in answers] == [400] * 5, [a.text for a in answers]


def test_a_schema_that_was_refused_is_refused_again(
    server: Running, neighbour: httpx.Client
) -> None:
    pattern = "(d{1,9000}){1,9000}(e{1,9000}){1,9000}"
    asked = {"model": "tiny", "messages": [USER], **schema({"type": "string", "pattern": pattern})}
    first, second = (attack(server, neighbour, encode(asked)) for _ in range(2))
    assert first.status_code == second.status_code == 400
    assert first.json() == second.json()


def header(text: bytes) -> Callable[[Path], None]:
    """Weights with this header, and four bytes of data."""

    def write(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))

    return write


def span(name: bytes, start: int, end: int) -> bytes:
    return b'"%s":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}' % (name, start, end)


def lie(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((1 << 40).to_bytes(8, "little") + b"{}")


def bring_code(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config |= {"auto_map": {"AutoModel": "code.Model"}, "model_type": "own"}
    path.write_text(json.dumps(config))


def cut_off(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])


def lose_a_tensor(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    del tensors["model.norm.weight"]
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def add_a_tensor(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    tensors["model.more.weight"] = tensors["model.norm.weight"]
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def push(server: Running, folder: Path) -> ModelRefused:
    """Why a checkpoint is refused."""
    options = PushOptions(name="hostile", task="text-generation")
    with Client(server.url, server.key) as client:
        with pytest.raises(ModelRefused) as refused:
            client.push(folder, options)
        assert "hostile" not in client.models()
    return refused.value


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lie, "header claims"),
        (header(b"{" * 1000), "no valid header"),
        (header(b"[1]"), "no valid header"),
        (header(b"{%s,%s}" % (span(b"a", 0, 4), span(b"a", 0, 4))), "stands there twice"),
        (header(b"{%s,%s}" % (span(b"a", 0, 4), span(b"b", 0, 4))), "overlap"),
        (header(b"{%s}" % span(b"a", 0, 1 << 40)), "does not take"),
        (cut_off, "its tensors take"),
        (bring_code, "auto_map"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_checkpoint_is_refused(
    server: Running,
    stranger: httpx.Client,
    tmp_path: Path,
    harm: Callable[[Path], None],
    told: str,
) -> None:
    folder = make_qwen3(tmp_path / "checkpoint")
    harm(folder)
    assert told in beside(stranger, lambda: push(server, folder)).message


@pytest.mark.parametrize(
    ("harm", "told"),
    [(lose_a_tensor, "model.norm.weight"), (add_a_tensor, "model.more.weight")],
)
def test_tensors_that_do_not_fit_are_refused(
    server: Running,
    stranger: httpx.Client,
    tmp_path: Path,
    harm: Callable[[Path], None],
    told: str,
) -> None:
    folder = make_qwen3(tmp_path / "checkpoint")
    harm(folder)
    refused = beside(stranger, lambda: push(server, folder))
    assert told in refused.message


def pull(server: Running) -> httpx.Response:
    body = {"repo": REPO, "name": "pulled"}
    answer = httpx.post(f"{server.url}/api/pulls", json=body, headers=server.admin, timeout=60)
    models = httpx.get(f"{server.url}/api/models", headers=server.admin).json()
    assert "pulled" not in [model["name"] for model in models]
    return answer


def test_a_hub_that_lies_about_a_digest(server: Running, stranger: httpx.Client, hub: Hub) -> None:
    hub.wrong_bytes = {WEIGHTS}
    answer = beside(stranger, lambda: pull(server))
    hub.wrong_bytes = set()
    assert answer.status_code == 502, answer.text
    assert answer.json()["code"] == "bad_gateway"
    assert "the hub says" in answer.json()["detail"]


def test_a_hub_that_breaks_off(server: Running, stranger: httpx.Client, hub: Hub) -> None:
    """It is tried again for some seconds: what is there stays, and the next pull goes on."""
    hub.breaks = {WEIGHTS: [1000] * 6}
    answer = beside(stranger, lambda: pull(server))
    assert answer.status_code == 503, answer.text
    assert "broke off after 6,000 of" in answer.json()["detail"]
    assert "continues" in answer.json()["hint"]


def test_a_disk_that_is_full(hub: Hub, language_home: Path, tmp_path: Path) -> None:
    size = len(hub.repos[REPO][WEIGHTS])

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8 * size, 8 * size))

    large = tmp_path / "large"
    shutil.copytree(make_qwen3(tmp_path / "checkpoint"), large)
    with (large / WEIGHTS).open("ab") as file:
        file.write(bytes(9 * size))
    hub.add(REPO, large)
    home = Path(shutil.copytree(language_home, tmp_path / "home"))
    give(home, "tiny", OTHER)
    with serving(home, limit=limit) as server, of_other_tenant(server) as stranger:
        answer = beside(stranger, lambda: pull(server))
    assert answer.status_code == 507, answer.text
    assert answer.json()["code"] == "storage_full"


def test_the_same_worker_answered_it_all(server: Running, neighbour: httpx.Client) -> None:
    assert ordinary(neighbour).status_code == 200
    rows = httpx.get(f"{server.url}/api/workers", headers=server.admin).json()
    assert {row["model"]: row["restarts"] for row in rows} == {"tiny:1": 0, "sly:1": 0}
