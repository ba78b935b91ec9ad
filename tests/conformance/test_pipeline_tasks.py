"""What every task whose models may be pipelines must keep to; a new one is found by its roles."""

import json

import pytest

from lmaas import tasks
from lmaas.codecs.limits import Limits
from lmaas.errors import InvalidInput
from lmaas.tasks.pipelines import PipelineTask
from lmaas.types import JSON, TENSORS, Payload, Signature

PIPELINES = [spec.name for spec in tasks.specs() if spec.roles]
EMPTY = Signature(inputs=(), outputs=(), batch=False, labels=("a",))


def test_some_task_has_pipelines() -> None:
    assert "object-detection" in PIPELINES


@pytest.mark.parametrize("name", PIPELINES)
def test_roles_are_of_tasks_that_there_are(name: str) -> None:
    spec = tasks.spec(name)
    assert len({role.name for role in spec.roles}) == len(spec.roles)
    assert any(role.required for role in spec.roles)
    for role in spec.roles:
        assert role.name.isidentifier()
        assert role.does
        for task in role.tasks:
            assert not tasks.spec(task).generates


@pytest.mark.parametrize("name", PIPELINES)
def test_the_serving_half_has_the_verbs(name: str) -> None:
    task = tasks.get(name)
    assert isinstance(task, PipelineTask)
    sample = task.drawn()
    assert sample.body
    assert task.drawn() == sample  # always the same


@pytest.mark.parametrize("name", PIPELINES)
def test_a_request_that_is_wrong_is_refused_before_any_part_is_asked(name: str) -> None:
    task = tasks.get(name)
    assert isinstance(task, PipelineTask)
    for payload in (
        Payload(body=b""),
        Payload(body=b"no file of any kind"),
        Payload(body=b"[", media_type=JSON),
        Payload(body=b"[" * 100_000, media_type=JSON),
        Payload(body=json.dumps({"inputs": [1, 2]}).encode(), media_type=JSON),
        Payload(body=json.dumps({"inputs": "AAAA", "other": 1}).encode(), media_type=JSON),
        Payload(body=b"{}", media_type=TENSORS),
    ):
        conversation = task.converse(payload, {}, EMPTY, Limits())
        with pytest.raises(InvalidInput):
            next(conversation)
