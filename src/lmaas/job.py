"""The records of a job, shared by the queue, the process that does the work and the doors."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec

from lmaas.errors import BY_CODE, Cancelled, LMaaSError, QueueFull, RateLimited
from lmaas.types import Record

JobState = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
JobKind = Literal["train", "pull", "import", "compress"]
KINDS: tuple[JobKind, ...] = get_args(JobKind)
ENDED: tuple[JobState, ...] = ("succeeded", "failed", "cancelled")

LOG_FILE = "log"
"""In a job's folder: all that its processes have printed."""
EVENTS_FILE = "events.jsonl"
"""In a job's folder: what its process tells, one `JobEvent` in JSON a line, flushed at once."""
CONTROL_FILE = "control"
"""In a job's folder: the word "pause" or "cancel" for the process to find between two steps."""
RESULT_FOLDER = "result"
"""In a job's folder: the package of the finished model, complete once the process exits with 0."""
RUN_FILE = "run.json"
"""In a job's folder: the resolved recipe, and the digest of the data, that the run began with."""
CHECKPOINTS_FOLDER = "checkpoints"
"""In a job's folder: a folder for each step that the run can be taken up from."""
METRICS_FILE = "metrics.csv"
"""In a job's folder, once it has ended or is paused: one row for each step that was told of."""
CURVES_FILE = "curves.png"
"""In a job's folder: the picture of these numbers."""
PAUSED_EXIT = 75
"""Exit code of a process that has written a checkpoint because it was asked to pause."""


class JobError(Record, frozen=True, kw_only=True):
    """Why a job failed, as an error of ours tells it."""

    code: str
    message: str
    hint: str | None = None
    param: str | None = None
    retry_after_s: int | None = None


class JobEvent(Record, frozen=True, kw_only=True):
    """One thing that happened, in order. `created_at` is Unix seconds.

    `type` "metrics" has numbers in `data`: `step`, `total_steps`, `epoch`, `train_loss`,
    `learning_rate`, `samples_per_s`, and after an evaluation `valid_…`. "resolved" carries the
    recipe with every "auto" replaced, "checkpoint" the `step` and `folder` of one that can be
    resumed from, "error" a `JobError`. The message with `measured` in `data` has the metrics of the
    model that becomes of the run, `valid_…` and `test_…`, and its `warnings`. Of a pull they are
    `file`, `done_bytes` and `total_bytes`; of an import and a compression the `stage`, and how much
    of it is `done` (0 to 1).
    """

    type: Literal["message", "metrics", "resolved", "checkpoint", "error"]
    message: str
    created_at: float
    level: Literal["info", "warn", "error"] = "info"
    data: dict[str, Any] = msgspec.field(default_factory=dict)


class StoredEvent(JobEvent, frozen=True, kw_only=True):
    """An event as the database has it; `seq` counts from 1 without gaps."""

    seq: int


class JobCheckpoint(Record, frozen=True, kw_only=True):
    """A state that the run can be taken up from, with the metrics last seen before it.

    `model` is what it is called by: it becomes a model of this name on its first call.
    """

    id: str
    job: str
    step: int
    model: str
    metrics: dict[str, float]
    created_at: float


def checkpoint_folder(step: int) -> str:
    """What the folder of a step's checkpoint is called."""
    return f"step-{step:08d}"


def checkpoint_model(name: str, job_id: str, step: int) -> str:
    """What the checkpoint of a step is called as a model; `name` is what the job makes."""
    return f"{name[:60].rstrip('._-')}.step-{step}.{job_id.removeprefix('ftjob-')[:8]}"


def left_s(progress: Mapping[str, Any], batch_size: int) -> float | None:
    """How long the steps that are left will take at the speed of the last metrics, if any."""
    if not progress.get("samples_per_s"):
        return None
    left_steps = progress["total_steps"] - progress["step"]
    return float(left_steps * batch_size / progress["samples_per_s"])


class Job(Record, frozen=True, kw_only=True):
    """A job as the queue has it. Times are Unix seconds.

    `wanted` is what a running job is asked for and has not done yet. `recipe` is that of a training
    run, or what its kind needs to know; `resolved` is a training run's with every "auto" replaced,
    `metadata` what its caller noted with it, `model` what it was registered
    as (`name:3`), `progress` the newest metrics, `attempts` how often it was started.
    """

    id: str
    tenant: str
    key_id: str
    kind: JobKind
    name: str
    state: JobState
    wanted: Literal["pause", "cancel"] | None = None
    priority: int = 0
    recipe: dict[str, Any]
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    resolved: dict[str, Any] | None = None
    error: JobError | None = None
    model: str | None = None
    progress: dict[str, Any] = msgspec.field(default_factory=dict)
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = 0
    checkpoints: tuple[JobCheckpoint, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.state in ENDED

    @property
    def left_s(self) -> float | None:
        """How long it will still train at its present speed, if it is not stopped early.

        None where it does not run, or has not told its speed yet.
        """
        if self.state != "running" or self.resolved is None:
            return None
        return left_s(self.progress, self.resolved["batch_size"])


def raise_error(job: Job) -> None:
    """Raise what a job failed with, and Cancelled for a cancelled one."""
    if job.state == "cancelled":
        raise Cancelled(f"The job {job.id} was cancelled.")
    told = job.error
    if told is None:
        return
    error = BY_CODE.get(told.code, LMaaSError)(told.message, hint=told.hint)
    error.param = told.param
    if told.retry_after_s is not None and isinstance(error, QueueFull | RateLimited):
        error.retry_after_s = told.retry_after_s
    raise error


WebhookEvent = Literal[
    "fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled",
    "job.succeeded", "job.failed", "job.cancelled",
]  # fmt: skip
"""What a webhook is told: that a job has ended. OpenAI's names for training; ours for the other
kinds, which OpenAI does not have.
"""


class Webhook(Record, frozen=True, kw_only=True):
    """An address that is told of events, without its secret."""

    id: str
    url: str
    events: tuple[WebhookEvent, ...]
    created_at: float


class WebhookDelivery(Record, frozen=True, kw_only=True):
    """One event on its way to one webhook; `id` is the header webhook-id of every attempt.

    `next_at` None: it was delivered at `delivered_at`, or given up for `error`.
    """

    id: str
    type: WebhookEvent
    created_at: float
    attempts: int
    next_at: float | None
    delivered_at: float | None
    error: str | None
