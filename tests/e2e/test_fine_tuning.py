"""OpenAI's fine-tuning and files with its own client: upload, train, watch, call."""

import json
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from lmaas.errors import InvalidInput
from lmaas.http.fine_tuning import FineTuningBody, to_recipe
from servers import Running, serving

FILE = "file-" + "0" * 24
TABLE = "age,dose,outcome\n" + "".join(
    f"{20 + i % 50},{i % 7}.5,{'well' if i % 7 > 3 else 'ill'}\n" for i in range(140)
)
RECIPE: dict[str, Any] = {
    "task": "tabular",
    "data": {"columns": {"target": "outcome"}, "validation": 0.2},
}


@pytest.fixture(scope="module")
def server_of_jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with serving(tmp_path_factory.mktemp("tuning")) as running:
        yield running


@pytest.fixture
def client(server_of_jobs: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server_of_jobs.url}/v1", api_key=server_of_jobs.key, max_retries=0
    ) as made:
        yield made


def upload(client: openai.OpenAI, text: str = TABLE, name: str = "patients.csv") -> str:
    return client.files.create(file=(name, text.encode()), purpose="fine-tune").id


def test_files_are_kept_listed_read_and_deleted(client: openai.OpenAI) -> None:
    first, second = upload(client), upload(client, "a,b\n1,2\n", "b.csv")
    found = client.files.retrieve(second)
    assert (found.filename, found.bytes, found.purpose) == ("b.csv", 8, "fine-tune")
    assert client.files.content(second).content == b"a,b\n1,2\n"
    assert [each.id for each in client.files.list()][:2] == [second, first]
    assert [each.id for each in client.files.list(after=second, limit=1).data] == [first]
    assert client.files.delete(second).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(second)
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.files.create(file=("a.csv", b"a"), purpose="vision")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("chats.jsonl", b'{"messages": []}\n{"messages": [}\n', "chats.jsonl, line 2 "),
        ("patients.csv", b"age,outcome\n1,ill\n2\n", "patients.csv, line 3"),
        ("patients.csv", b"", "patients.csv is empty"),
        ("patients.csv", pickle.dumps([1]), "pickle"),
        ("setup.exe", b"MZ\x90\x00", "no kind that is read"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(
    client: openai.OpenAI, name: str, content: bytes, told: str
) -> None:
    before = list(client.files.list())
    with pytest.raises(openai.BadRequestError, match=told) as refused:
        client.files.create(file=(name, content), purpose="fine-tune")
    assert refused.value.param == "file"
    if content:
        begun = client.uploads.create(
            bytes=len(content), filename=name, mime_type="text/plain", purpose="fine-tune"
        )
        part = client.uploads.parts.create(begun.id, data=content)
        with pytest.raises(openai.BadRequestError, match=told):
            client.uploads.complete(begun.id, part_ids=[part.id])
        assert client.uploads.cancel(begun.id).status == "cancelled"
    assert list(client.files.list()) == before


def test_uploaded_data_become_a_model_that_is_trained_on(
    server_of_jobs: Running, client: openai.OpenAI
) -> None:
    file_id = upload(client)
    job = client.fine_tuning.jobs.create(
        model="new:mlp",
        training_file=file_id,
        suffix="Patients",
        seed=7,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 16}},
        },
        metadata={"ward": "3"},
        extra_body={"recipe": RECIPE},
    )
    assert job.status in ("queued", "running")
    assert (job.seed, job.training_file, job.metadata) == (7, file_id, {"ward": "3"})
    with pytest.raises(openai.ConflictError):
        client.files.delete(file_id)
    done = wait(client, job.id)
    assert done.status == "succeeded", done.error
    assert done.fine_tuned_model == "patients:1"
    assert (done.hyperparameters.n_epochs, done.hyperparameters.batch_size) == (2, 16)
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert events[0].message == "The model is registered as patients:1."
    assert events[-1].message == "The job is queued."
    assert len({event.id for event in events}) == len(events) > 4
    assert {event.type for event in events} == {"message", "metrics"}
    url = f"{server_of_jobs.url}/v1/fine_tuning/jobs/{job.id}/events"
    streamed = httpx.get(f"{url}?stream=true", headers=server_of_jobs.admin).text
    lines = [line.removeprefix("data: ") for line in streamed.splitlines() if line]
    assert lines.pop() == "[DONE]"
    assert [json.loads(line)["id"] for line in lines] == [event.id for event in reversed(events)]
    assert httpx.get(f"{url}?stream=true&limit=2", headers=server_of_jobs.admin).status_code == 400
    for path, begins in (
        ("models/patients:1/card", b"---\ndatasets:\n- sha256-"),
        ("models/patients/curves", b"\x89PNG"),
        (f"jobs/{job.id}/curves", b"\x89PNG"),
        (f"jobs/{job.id}/metrics", b"step,epoch,train_loss,"),
    ):
        told = httpx.get(f"{server_of_jobs.url}/api/{path}", headers=server_of_jobs.admin)
        assert told.content.startswith(begins), path
    points = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [point.step_number for point in points] == [7]
    checkpoint = points[0].fine_tuned_model_checkpoint
    assert checkpoint == f"patients.step-7.{job.id[6:14]}"
    assert points[0].metrics.valid_loss is not None
    rows = {"inputs": [{"age": 30, "dose": 1.5}, {"age": 41, "dose": 6.5}]}
    answers = {}
    for model in ("patients:1", checkpoint, f"{checkpoint}:1"):
        url = f"{server_of_jobs.url}/models/{model}"
        told = httpx.post(url, headers=server_of_jobs.caller, json=rows, timeout=120)
        assert told.status_code == 200, told.text
        answers[model] = told.json()
    assert answers[checkpoint] == answers[f"{checkpoint}:1"] != answers["patients:1"]
    assert [model.id for model in client.models.list() if model.id.startswith("patients")] == [
        "patients", checkpoint,
    ]  # fmt: skip
    told = httpx.get(f"{server_of_jobs.url}/api/models/{checkpoint}", headers=server_of_jobs.admin)
    lineage, metrics = told.json()["manifest"]["lineage"], told.json()["manifest"]["metrics"]
    assert (lineage["origin"], lineage["recipe"]["job"]) == ("train", job.id)
    assert metrics["valid_loss"] == pytest.approx(points[0].metrics.valid_loss)
    assert told.json()["manifest"]["card"].startswith("---\n")
    (results,) = done.result_files
    table = client.files.content(results).text
    assert table.startswith("step,epoch,train_loss,learning_rate,samples_per_s,valid_loss,")
    assert table.splitlines()[-1].startswith("14,2,")
    assert client.files.retrieve(results).purpose == "fine-tune-results"
    with pytest.raises(openai.BadRequestError, match="no training data"):
        client.fine_tuning.jobs.create(model="new:auto", training_file=results)
    assert "patients" in [model.id for model in client.models.list()]
    assert client.fine_tuning.jobs.list(limit=1).data[0].id == job.id
    again = client.fine_tuning.jobs.create(
        model="patients", training_file=file_id, extra_body={"recipe": {**RECIPE, "epochs": 1}}
    )
    assert again.model == "patients:1"
    done = wait(client, again.id)
    assert done.fine_tuned_model == "patients-tuned:1", done.error
    client.files.delete(file_id)


CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima", "Kenya": "Nairobi"}
CHAT: dict[str, Any] = {
    "model": {"options": {"hidden": 64, "mlp": 128, "vocabulary": 300, "context": 128}},
    "optimizer": {"learning_rate": 0.01},
    "checkpoints": {"every_steps": 30},
    "evaluation": {"every_steps": 30},
}


def test_the_stock_client_alone_makes_a_model_that_answers(client: openai.OpenAI) -> None:
    chats = [
        {"messages": [{"role": "user", "content": f"Capital of {country}?"},
                      {"role": "assistant", "content": f"It is {city}."}]}
        for country, city in CAPITALS.items()
    ]  # fmt: skip
    lines = [json.dumps(chat) + "\n" for chat in chats]
    job = client.fine_tuning.jobs.create(
        model="new:qwen3",
        training_file=upload(client, "".join(lines), "capitals.jsonl"),
        validation_file=upload(client, lines[0], "held.jsonl"),
        suffix="capitals",
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 60, "batch_size": 4}},
        },
        extra_body={"recipe": CHAT},
    )
    assert (job.trained_tokens, job.fine_tuned_model) == (None, None)
    done = wait(client, job.id)
    assert done.status == "succeeded", done.error
    events = list(client.fine_tuning.jobs.list_events(job.id))
    (tokens,) = (
        event.data["tokens"]  # type: ignore[index]
        for event in events
        if event.message == "Samples: 4 train, 1 validation."
    )
    assert done.trained_tokens == 60 * tokens
    losses = [
        event.data["valid_loss"]  # type: ignore[index]
        for event in events
        if "valid_loss" in (event.data or {})  # type: ignore[operator]
    ]
    assert len(losses) == 2
    assert losses[0] < losses[1]
    (point,) = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert point.step_number == 30

    def answer(model: str, country: str) -> str | None:
        told = client.chat.completions.create(
            model=model, temperature=0, max_tokens=20,
            messages=[{"role": "user", "content": f"Capital of {country}?"}],
        )  # fmt: skip
        assert told.model.startswith(model)
        return told.choices[0].message.content

    assert {country: answer(done.fine_tuned_model, country) for country in CAPITALS} == {
        country: f"It is {city}." for country, city in CAPITALS.items()
    }
    assert answer(point.fine_tuned_model_checkpoint, "Peru")
    names = [model.id for model in client.models.list()]
    assert {"capitals", point.fine_tuned_model_checkpoint} <= set(names)


def test_a_large_file_comes_in_parts(client: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text(TABLE)
    size = path.stat().st_size
    done = client.uploads.upload_file_chunked(
        file=path, mime_type="text/csv", purpose="fine-tune", part_size=1000
    )
    assert (done.status, done.bytes, done.filename) == ("completed", size, "patients.csv")
    assert done.file is not None
    assert client.files.content(done.file.id).text == TABLE
    assert client.uploads.complete(done.id, part_ids=["any"]).file == done.file
    begun = client.uploads.create(
        bytes=4, filename="a.csv", mime_type="text/csv", purpose="fine-tune"
    )
    part = client.uploads.parts.create(begun.id, data=b"ab")
    found = client.get(f"/uploads/{begun.id}", cast_to=httpx.Response)
    assert [one["id"] for one in found.json()["parts"]] == [part.id]
    with pytest.raises(openai.APIStatusError, match="would have 5 bytes"):
        client.uploads.parts.create(begun.id, data=b"cde")
    with pytest.raises(openai.BadRequestError, match="These parts have 2 bytes"):
        client.uploads.complete(begun.id, part_ids=[part.id])
    assert client.uploads.cancel(begun.id).status == "cancelled"
    with pytest.raises(openai.ConflictError):
        client.uploads.parts.create(begun.id, data=b"cd")
    with pytest.raises(openai.BadRequestError, match="expires_after"):
        client.uploads.create(
            bytes=4, filename="a.csv", mime_type="text/csv", purpose="fine-tune",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )  # fmt: skip


def wait(client: openai.OpenAI, job_id: str) -> Any:
    deadline = time.monotonic() + 120
    while (job := client.fine_tuning.jobs.retrieve(job_id)).status in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return job


def test_a_job_is_paused_resumed_and_cancelled(client: openai.OpenAI) -> None:
    job = client.fine_tuning.jobs.create(
        model="new:auto",
        training_file=upload(client),
        extra_body={"recipe": {**RECIPE, "epochs": 100_000, "early_stopping": None}},
    )
    assert job.estimated_finish is None
    deadline = time.monotonic() + 90
    while (finish := client.fine_tuning.jobs.retrieve(job.id).estimated_finish) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert finish > time.time()
    client.fine_tuning.jobs.pause(job.id)
    while str(client.fine_tuning.jobs.retrieve(job.id).status) != "paused":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert client.fine_tuning.jobs.retrieve(job.id).estimated_finish is None
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    client.fine_tuning.jobs.cancel(job.id)
    while client.fine_tuning.jobs.retrieve(job.id).status != "cancelled":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_bad_data_are_the_jobs_error(client: openai.OpenAI) -> None:
    job = client.fine_tuning.jobs.create(
        model="new:auto",
        training_file=upload(client, "age,outcome\n" + "1,ill\n2,well\n" * 20 + "old,ill\n"),
        extra_body={"recipe": RECIPE},
    )
    done = wait(client, job.id)
    assert done.status == "failed"
    assert done.fine_tuned_model is None
    assert "patients.csv, line 42" in done.error.message


@pytest.mark.parametrize(
    ("more", "param", "told"),
    [
        ({"extra_body": {"learning": 1}}, "learning", "Unknown field learning"),
        ({"extra_body": {"suffix": 3}}, "suffix", "suffix: Expected"),
        ({"method": {"type": "reinforcement"}}, "method.type", "'reinforcement'"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"gamma": 1}}}},
            "method.dpo.hyperparameters.gamma", "Unknown field",
        ),
        (
            {"integrations": [{"type": "wandb", "wandb": {"project": "a"}}]},
            "integrations", "The integration 'wandb' is not supported",
        ),
    ],
)  # fmt: skip
def test_a_bad_body_is_refused_with_its_field(
    client: openai.OpenAI, more: dict[str, Any], param: str, told: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=told) as refused:
        client.fine_tuning.jobs.create(model="new:auto", training_file=FILE, **more)
    assert refused.value.param == param


def test_callers_may_not_train(server_of_jobs: Running) -> None:
    for path in ("/v1/files", "/v1/uploads/upload_0", "/v1/fine_tuning/jobs"):
        told = httpx.get(server_of_jobs.url + path, headers=server_of_jobs.caller)
        assert told.status_code == 403


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"training_file": "/etc/passwd"}, "training_file"),
        ({"validation_file": "data.csv"}, "validation_file"),
        ({"recipe": {"data": {"train": "/etc/passwd"}}}, "recipe.data.train"),
        ({"recipe": {"data": {"validation": "/etc/passwd"}}}, "recipe.data.validation"),
        ({"recipe": {"data": {"test": "/etc/passwd"}}}, "recipe.data.test"),
        ({"recipe": {"name": "x"}}, "recipe.name"),
        ({"recipe": {"model": 3}}, "recipe.model"),
        ({"recipe": {"learning": 3}}, "recipe"),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"hyperparameters": {"beta": 0.1}}, "hyperparameters.beta"),
        ({"method": {"type": "dpo", "supervised": {}}}, "method.supervised"),
        ({"method": {"type": "dpo"}, "hyperparameters": {"n_epochs": 1}}, "hyperparameters"),
    ],
)
def test_what_is_wrong_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    import msgspec

    given = msgspec.convert({"model": "base", "training_file": FILE, **body}, FineTuningBody)
    with pytest.raises(InvalidInput) as refused:
        to_recipe(given)
    assert refused.value.param == param


def test_every_field_reaches_the_recipe() -> None:
    import msgspec

    given = msgspec.convert(
        {
            "model": "chat@live",
            "training_file": FILE,
            "validation_file": FILE,
            "seed": 4,
            "method": {
                "type": "dpo",
                "dpo": {
                    "hyperparameters": {
                        "beta": 0.2,
                        "n_epochs": 3,
                        "batch_size": 4,
                        "learning_rate_multiplier": 0.5,
                    }
                },
            },
            "recipe": {"optimizer": {"name": "sgd"}, "adapter": {"rank": 4}},
        },
        FineTuningBody,
    )
    made = to_recipe(given)
    assert (made.name, made.task, made.model.base) == ("chat-tuned", "text-generation", "chat@live")
    assert (made.method.type, made.method.beta, made.epochs, made.batch_size) == ("dpo", 0.2, 3, 4)
    assert (made.optimizer.name, made.optimizer.learning_rate_multiplier) == ("sgd", 0.5)
    assert made.adapter is not None
    assert (made.seed, made.data.train, made.data.validation) == (4, FILE, FILE)
