"""OpenAI's fine-tuning API, a thin door over the jobs of every task.

The body's `model` is a registered model to train on, or `new:ARCHITECTURE` (`new:auto`) for one
with fresh weights. What OpenAI's fields cannot say stands in the extension `recipe`: keys of a
recipe, sent by its client as `extra_body={"recipe": {…}}`. Data are ids of uploaded files only.
"""

import re
import time
from typing import Annotated, Any, Literal

import msgspec

from lmaas.errors import InvalidInput, NotFound
from lmaas.http import sse
from lmaas.http.body import decode
from lmaas.http.exchange import Exchange
from lmaas.http.jobs import number
from lmaas.job import Job, JobError, StoredEvent
from lmaas.recipe import Recipe, recipe_of
from lmaas.registry.data_files import Files
from lmaas.service import Service
from lmaas.types import Record

MAX_BODY_BYTES = 1 << 20
MAX_PAGE = 100
PAGE_QUERY = ("after", "limit")
EVENTS_QUERY = (*PAGE_QUERY, "stream")
NEW = "new:"
TRAINS = "ftjob-"
"""What the ids of training runs begin with."""
OWNED = ("name", "seed")
"""Keys of a recipe that the body's own fields say."""

Auto = Literal["auto"]
MetadataKey = Annotated[str, msgspec.Meta(max_length=64)]
MetadataValue = Annotated[str, msgspec.Meta(max_length=512)]
Keys = Annotated[
    dict[str, Any], msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/RecipeKeys"})
]


class Hyperparameters(Record, frozen=True, kw_only=True):
    """How long and how fast; `beta` is DPO's."""

    n_epochs: Annotated[int, msgspec.Meta(ge=1)] | Auto | None = None
    batch_size: Annotated[int, msgspec.Meta(ge=1)] | Auto | None = None
    learning_rate_multiplier: Annotated[float, msgspec.Meta(gt=0)] | Auto | None = None
    beta: Annotated[float, msgspec.Meta(gt=0)] | Auto | None = None


class MethodOptions(Record, frozen=True, kw_only=True):
    """The options of a method."""

    hyperparameters: Hyperparameters | None = None


class MethodBody(Record, frozen=True, kw_only=True):
    """How it is trained: the options stand under the method's own name."""

    type: Literal["supervised", "dpo"]
    supervised: MethodOptions | None = None
    dpo: MethodOptions | None = None


class FineTuningBody(Record, frozen=True, kw_only=True):
    """A run to be queued; `recipe` is an extension."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    training_file: str
    validation_file: str | None = None
    suffix: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] | None = None
    method: MethodBody | None = None
    hyperparameters: Hyperparameters | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], msgspec.Meta(max_length=16)] | None = None
    integrations: list[dict[str, Any]] | None = None
    recipe: Keys = msgspec.field(default_factory=dict)


_decoder = msgspec.json.Decoder(FineTuningBody)


class FineTuningJob(Record, frozen=True, kw_only=True):
    """A job as OpenAI's client reads it; `paused` is a state of ours. `recipe` is an extension.

    `estimated_finish` is of a running job that is not stopped early, `trained_tokens` of an ended
    one that learned from tokens.
    """

    id: str
    created_at: int
    error: JobError | None
    fine_tuned_model: str | None
    finished_at: int | None
    hyperparameters: dict[str, Any]
    model: str
    seed: int
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    training_file: str
    validation_file: str | None
    method: dict[str, Any]
    metadata: dict[str, str]
    recipe: dict[str, Any]
    organization_id: str
    result_files: list[str]
    trained_tokens: int | None
    estimated_finish: int | None
    object: Literal["fine_tuning.job"] = "fine_tuning.job"


class JobPage(Record, frozen=True, kw_only=True):
    """A page of jobs."""

    data: list[FineTuningJob]
    has_more: bool
    object: Literal["list"] = "list"


class FineTuningEvent(Record, frozen=True, kw_only=True):
    """Something that happened in a job."""

    id: str
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"


class EventPage(Record, frozen=True, kw_only=True):
    """A page of events."""

    data: list[FineTuningEvent]
    has_more: bool
    object: Literal["list"] = "list"


class CheckpointObject(Record, frozen=True, kw_only=True):
    """A state that the run can be taken up from, and the model that it is on its first call."""

    id: str
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float]
    step_number: int
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"


class CheckpointPage(Record, frozen=True, kw_only=True):
    """A page of checkpoints."""

    data: list[CheckpointObject]
    has_more: bool
    first_id: str | None
    last_id: str | None
    object: Literal["list"] = "list"


async def create(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Queue a training run on uploaded files."""
    body = decode(await exchange.body(MAX_BODY_BYTES), _decoder)
    assert exchange.key is not None
    job = await service.write(
        service.jobs.add,
        exchange.tenant,
        to_recipe(body),
        key_id=exchange.key.id,
        metadata=body.metadata or {},
    )
    exchange.send_json(await service.read(told, service, job))


async def page(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Jobs, newest first; `after` is the last id of the page before."""
    limit = _limit(exchange)
    found = await service.read(
        service.jobs.page,
        exchange.tenant,
        after=exchange.query.get("after"),
        limit=limit + 1,
        kind="train",
    )
    exchange.send_json(
        JobPage(
            data=await service.read(lambda: [told(service, job) for job in found[:limit]]),
            has_more=len(found) > limit,
        )
    )


async def get(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """One job."""
    job = await service.read(service.jobs.get, exchange.tenant, _id(path))
    exchange.send_json(await service.read(told, service, job))


async def cancel(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """End a job within seconds."""
    job = await service.write(service.jobs.cancel, exchange.tenant, _id(path))
    exchange.send_json(await service.read(told, service, job))


async def pause(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Hold a job, with a checkpoint of where it is."""
    job = await service.write(service.jobs.pause, exchange.tenant, _id(path))
    exchange.send_json(await service.read(told, service, job))


async def resume(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Put a paused job back into the queue."""
    job = await service.write(service.jobs.resume, exchange.tenant, _id(path))
    exchange.send_json(await service.read(told, service, job))


async def events(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """A job's events, newest first; `after` is the last id of the page before.

    stream=true, an extension, sends them oldest first as SSE, those to come too.
    """
    stream = exchange.query.get("stream", "false")
    if stream not in ("true", "false"):
        raise InvalidInput(f"stream is true or false; received {stream[:50]!r}.", param="stream")
    if stream == "true":
        await _stream(service, exchange, _id(path))
        return
    limit, before = _limit(exchange), None
    if after := exchange.query.get("after"):
        matched = re.fullmatch(rf"ftevent-{re.escape(path['id'])}-(\d{{1,12}})", after)
        if matched is None:
            raise InvalidInput(f"There is no event {after[:100]!r} of this job.", param="after")
        before = int(matched[1])
    found = await service.read(
        service.jobs.last_events, exchange.tenant, _id(path), limit + 1, before=before
    )
    found.reverse()
    exchange.send_json(
        EventPage(
            data=[_event(_id(path), event) for event in found[:limit]],
            has_more=len(found) > limit,
        )
    )


async def _stream(service: Service, exchange: Exchange, job_id: str) -> None:
    for name in PAGE_QUERY:
        if name in exchange.query:
            raise InvalidInput(f"A stream takes no {name}.", param=name)
    await service.read(service.jobs.get, exchange.tenant, job_id)
    exchange.start()
    async for event in service.jobs.follow(exchange.tenant, job_id):
        exchange.push(b"data: %b\n\n" % sse.encode(_event(job_id, event)))
        await exchange.flowing()
    exchange.push(sse.DONE)
    exchange.finish()


async def checkpoints(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """A job's checkpoints, newest first; each can be called as a model."""
    limit = _limit(exchange)
    job = await service.read(service.jobs.get, exchange.tenant, _id(path))
    found = list(reversed(job.checkpoints))
    if after := exchange.query.get("after"):
        place = [point.id for point in found]
        if after not in place:
            raise InvalidInput(f"There is no checkpoint {after[:100]!r}.", param="after")
        found = found[place.index(after) + 1 :]
    page = [
        CheckpointObject(
            id=point.id,
            created_at=int(point.created_at),
            fine_tuned_model_checkpoint=point.model,
            fine_tuning_job_id=point.job,
            metrics={"step": point.step, **point.metrics},
            step_number=point.step,
        )
        for point in found[:limit]
    ]
    exchange.send_json(
        CheckpointPage(
            data=page,
            has_more=len(found) > limit,
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
        )
    )


def _id(path: dict[str, str]) -> str:
    """The id of a training run. Raises NotFound for jobs of other kinds, which OpenAI has not."""
    job_id = path["id"]
    if not job_id.startswith(TRAINS):
        raise NotFound(f"There is no fine-tuning job {job_id[:100]!r}.", param="job")
    return job_id


def to_recipe(body: FineTuningBody) -> Recipe:
    """What the body asks for. Raises InvalidInput naming the field."""
    if body.integrations:
        kind = str(body.integrations[0].get("type"))
        raise InvalidInput(
            f"The integration {kind[:50]!r} is not supported.",
            hint="Leave integrations out; events and metrics.csv have the numbers.",
            param="integrations",
        )
    plain = {**(body.recipe or {})}
    for name in OWNED:
        if name in plain:
            field = {"name": "suffix"}.get(name, name)
            raise InvalidInput(f"recipe.{name} is the field {field}.", param=f"recipe.{name}")
    data = _inner(plain, "data")
    for name in ("train", "validation"):
        if isinstance(data.get(name), str):
            raise InvalidInput(
                f"recipe.data.{name} is a file: send it as "
                f"{'training_file' if name == 'train' else 'validation_file'}.",
                param=f"recipe.data.{name}",
            )
    if isinstance(data.get("test"), str) and not Files.is_id(data["test"]):
        raise InvalidInput("recipe.data.test is a file's id here.", param="recipe.data.test")
    for field in ("training_file", "validation_file"):
        value = getattr(body, field)
        if value is not None and not Files.is_id(value):
            raise InvalidInput(
                f"{field} is the id of an uploaded file; received {value[:100]!r}.", param=field
            )
    data["train"] = body.training_file
    if body.validation_file is not None:
        data["validation"] = body.validation_file
    model = _inner(plain, "model")
    if body.model.startswith(NEW):
        if body.model != f"{NEW}auto":
            model["architecture"] = body.model.removeprefix(NEW)
    else:
        model["base"] = body.model
    _hyperparameters(body, plain)
    plain.setdefault("task", "text-generation")
    if body.seed is not None:
        plain["seed"] = body.seed
    stem = body.model.removeprefix(NEW).partition(":")[0].partition("@")[0]
    named = body.suffix or f"{stem}-tuned"
    plain["name"] = re.sub(r"[^a-z0-9._-]+", "-", named.lower()).strip("-._") or "model"
    return recipe_of({**plain, "data": data, "model": model})


def _hyperparameters(body: FineTuningBody, plain: dict[str, Any]) -> None:
    given = body.hyperparameters
    method = _inner(plain, "method")
    if body.method is not None:
        other = "dpo" if body.method.type == "supervised" else "supervised"
        if getattr(body.method, other) is not None:
            raise InvalidInput(
                f"method.{other} stands beside method.type {body.method.type!r}.",
                param=f"method.{other}",
            )
        if given is not None:
            raise InvalidInput(
                "hyperparameters stand in the method when there is one.", param="hyperparameters"
            )
        options = getattr(body.method, body.method.type)
        given = None if options is None else options.hyperparameters
        method["type"] = body.method.type
    if given is not None:
        if given.beta not in (None, "auto"):
            if method.get("type") != "dpo":
                raise InvalidInput("beta is of the method dpo.", param="hyperparameters.beta")
            method["beta"] = given.beta
        for name, key in (("n_epochs", "epochs"), ("batch_size", "batch_size")):
            if getattr(given, name) not in (None, "auto"):
                plain[key] = getattr(given, name)
        if given.learning_rate_multiplier not in (None, "auto"):
            optimizer = _inner(plain, "optimizer")
            optimizer["learning_rate_multiplier"] = given.learning_rate_multiplier
            plain["optimizer"] = optimizer
    plain["method"] = method


def _inner(plain: dict[str, Any], name: str) -> dict[str, Any]:
    value = plain.get(name, {})
    if not isinstance(value, dict):
        raise InvalidInput(f"recipe.{name} is an object.", param=f"recipe.{name}")
    return dict(value)


def told(service: Service, job: Job) -> FineTuningJob:
    """A job as this protocol tells it. Asks the database."""
    recipe = job.resolved or job.recipe
    data, model, method = (job.recipe.get(name) or {} for name in ("data", "model", "method"))
    numbers = {
        "n_epochs": recipe.get("epochs", "auto"),
        "batch_size": recipe.get("batch_size", "auto"),
        "learning_rate_multiplier": recipe["optimizer"].get("learning_rate_multiplier", 1.0),
    }
    kind = method.get("type", "supervised")
    options = {**numbers, "beta": recipe["method"]["beta"]} if kind == "dpo" else numbers
    validation = data.get("validation")
    return FineTuningJob(
        id=job.id,
        created_at=int(job.created_at),
        error=job.error,
        fine_tuned_model=job.model,
        finished_at=None if job.finished_at is None else int(job.finished_at),
        hyperparameters=numbers,
        model=model.get("base") or f"{NEW}{model.get('architecture') or 'auto'}",
        seed=job.recipe.get("seed", 0),
        status=job.state,
        training_file=str(data.get("train")),
        validation_file=validation if isinstance(validation, str) else None,
        method={"type": kind, kind: {"hyperparameters": options}},
        metadata=job.metadata,
        recipe=recipe,
        organization_id=job.tenant,
        result_files=service.jobs.result_files(job),
        trained_tokens=service.jobs.trained_tokens(job),
        estimated_finish=None if job.left_s is None else int(time.time() + job.left_s),
    )


def _event(job_id: str, event: StoredEvent) -> FineTuningEvent:
    return FineTuningEvent(
        id=f"ftevent-{job_id}-{event.seq}",
        created_at=int(event.created_at),
        level=event.level,
        message=event.message,
        type="metrics" if event.type == "metrics" else "message",
        data=event.data,
    )


def _limit(exchange: Exchange) -> int:
    limit = number(exchange, "limit", 20)
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidInput(f"limit is from 1 to {MAX_PAGE}; received {limit}.", param="limit")
    return limit
