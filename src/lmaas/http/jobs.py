"""Jobs over HTTP; every route needs the scope admin."""

from typing import Annotated, cast, get_args

import msgspec

from lmaas.codecs.json import read
from lmaas.errors import InvalidInput
from lmaas.http import sse
from lmaas.http.download import send
from lmaas.http.exchange import Exchange
from lmaas.job import CURVES_FILE, KINDS, METRICS_FILE, Job, JobState
from lmaas.jobs.store import MAX_PRIORITY
from lmaas.recipe import Recipe
from lmaas.service import Service
from lmaas.training.schema import recipe_schema
from lmaas.types import Record

MAX_BODY_BYTES = 1 << 20
LIST_QUERY = ("after", "limit", "state", "kind")
EVENTS_QUERY = ("after", "limit", "stream")


class TrainBody(Record, frozen=True, kw_only=True):
    """A training run to be queued; jobs of a higher `priority` run first."""

    recipe: Recipe
    priority: Annotated[int, msgspec.Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0


class JobLog(Record, frozen=True, kw_only=True):
    """The end of what a job's process has printed."""

    log: str


async def create(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Queue a training run."""
    body = read(await exchange.body(MAX_BODY_BYTES), TrainBody)
    assert exchange.key is not None
    job = await service.write(
        service.jobs.add,
        exchange.tenant,
        body.recipe,
        key_id=exchange.key.id,
        priority=body.priority,
    )
    exchange.send_json(job, status=201)


def check_wait(exchange: Exchange) -> None:
    """Whether it is said in a known word if the caller waits for the job that is to be queued."""
    wait = exchange.query.get("wait", "true")
    if wait not in ("true", "false"):
        raise InvalidInput(f"wait is true or false; received {wait[:50]!r}.", param="wait")


async def finished(service: Service, exchange: Exchange, job: Job) -> Job | None:
    """The job once it has succeeded. None where its caller does not wait: it has its answer.

    Whoever goes away meanwhile leaves the job alone. Raises what it failed with.
    """
    if exchange.query.get("wait") == "false":
        exchange.extra.append((b"location", f"/api/jobs/{job.id}".encode()))
        exchange.send_json(job, status=202)
        return None
    return await service.jobs.finished(exchange.tenant, job.id)


async def page(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Jobs, newest first; `after` is the last id of the page before."""
    query = exchange.query
    state = query.get("state")
    if state is not None and state not in get_args(JobState):
        raise InvalidInput(
            f"state is one of {', '.join(get_args(JobState))}; received {state!r}.", param="state"
        )
    kind = query.get("kind")
    if kind is not None and kind not in KINDS:
        raise InvalidInput(
            f"kind is one of {', '.join(KINDS)}; received {kind[:50]!r}.", param="kind"
        )
    jobs = await service.read(
        service.jobs.page,
        exchange.tenant,
        after=query.get("after"),
        limit=number(exchange, "limit", 20),
        state=cast(JobState | None, state),
        kind=kind,
    )
    exchange.send_json(jobs)


async def schema(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The JSON schema of a recipe, with each task's options, architectures and augmentations."""
    exchange.send_json(recipe_schema())


async def get(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """One job with its checkpoints."""
    exchange.send_json(await service.read(service.jobs.get, exchange.tenant, path["id"]))


async def cancel(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """End a job within seconds."""
    exchange.send_json(await service.write(service.jobs.cancel, exchange.tenant, path["id"]))


async def pause(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Hold a training run, with a checkpoint of where it is, or a pull."""
    exchange.send_json(await service.write(service.jobs.pause, exchange.tenant, path["id"]))


async def resume(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """Put a paused job back into the queue."""
    exchange.send_json(await service.write(service.jobs.resume, exchange.tenant, path["id"]))


async def log(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """The end of what a job's process has printed."""
    exchange.send_json(JobLog(log=await service.jobs.log(exchange.tenant, path["id"])))


async def metrics(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """A job's metrics as CSV, one row a step; once it has ended or is paused."""
    source = await service.read(service.jobs.file, exchange.tenant, path["id"], METRICS_FILE)
    await send(exchange, source, b"text/csv; charset=utf-8")


async def curves(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """A job's learning curves, as a picture; once it has ended or is paused."""
    await send(
        exchange,
        await service.read(service.jobs.file, exchange.tenant, path["id"], CURVES_FILE),
        b"image/png",
    )


async def events(service: Service, exchange: Exchange, path: dict[str, str]) -> None:
    """A job's events in order, after number `after`; stream=true sends those to come as SSE."""
    after = number(exchange, "after", 0)
    stream = exchange.query.get("stream", "false")
    if stream not in ("true", "false"):
        raise InvalidInput(f"stream is true or false; received {stream!r}.", param="stream")
    if stream == "false":
        limit = number(exchange, "limit", 100)
        exchange.send_json(
            await service.read(
                service.jobs.events, exchange.tenant, path["id"], after=after, limit=limit
            )
        )
        return
    if "limit" in exchange.query:
        raise InvalidInput("A stream takes no limit.", param="limit")
    await service.read(service.jobs.get, exchange.tenant, path["id"])
    exchange.start()
    async for event in service.jobs.follow(exchange.tenant, path["id"], after=after):
        exchange.push(b"data: %b\n\n" % sse.encode(event))
        await exchange.flowing()
    exchange.push(sse.DONE)
    exchange.finish()


def number(exchange: Exchange, name: str, default: int) -> int:
    """A query parameter that is a whole number from 0."""
    text = exchange.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise InvalidInput(f"{name} is a whole number; received {text[:50]!r}.", param=name)
    return int(text)
