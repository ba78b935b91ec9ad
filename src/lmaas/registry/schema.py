"""The tables. Every row carries its tenant. Changed only together with a numbered migration."""

from sqlalchemy import (
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

HEAD = "0008"
"""The newest migration: what this code's tables are."""

metadata = MetaData()

revisions = Table(
    "revisions",
    metadata,
    Column("topic", String, primary_key=True),
    Column("number", Integer, nullable=False),
)
"""How often what belongs to a topic has changed (`registry.storage.Topic`)."""

models = Table(
    "models",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("last_version", Integer, nullable=False),
    Column("deleted", Integer, nullable=False, default=0),
    info={"topic": "models"},
)

versions = Table(
    "versions",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("manifest", Text, nullable=False),
    Column("parity", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    ForeignKeyConstraint(["tenant", "name"], ["models.tenant", "models.name"]),
    info={"topic": "models"},
)

_VERSION = ["versions.tenant", "versions.name", "versions.version"]

files = Table(
    "files",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("path", String, primary_key=True),
    Column("role", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    ForeignKeyConstraint(["tenant", "name", "version"], _VERSION, ondelete="CASCADE"),
    Index("files_by_sha256", "sha256"),
    info={"topic": "models"},
)

aliases = Table(
    "aliases",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("alias", String, primary_key=True),
    Column("version", Integer, nullable=False),
    ForeignKeyConstraint(["tenant", "name", "version"], _VERSION),
    info={"topic": "models"},
)

variants = Table(
    "variants",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("variant", String, primary_key=True),
    Column("report", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    ForeignKeyConstraint(["tenant", "name", "version"], _VERSION, ondelete="CASCADE"),
    info={"topic": "models"},
)
"""Compressed variants of a version; their files are rows of `files` with the role "variant"."""

keys = Table(
    "keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("name", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("scopes", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
    Index("keys_by_tenant", "tenant"),
    info={"topic": "keys"},
)

usage = Table(
    "usage",
    metadata,
    Column("request_id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("model", String, nullable=False),
    Column("version", Integer),
    Column("endpoint", String, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("duration_ms", Float, nullable=False),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("reasoning_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("cost_micro", Integer, nullable=False),
    Column("status", String, nullable=False),
    Column("error_code", String),
    Column("audio_ms", Integer, nullable=False, server_default="0"),
    Index("usage_by_tenant", "tenant", "started_at", "cost_micro"),
    Index("usage_by_key", "key_id", "started_at", "cost_micro"),
)
"""One row for every admitted request, written once; never changed.

Calls that nothing bounds and that cost nothing are summed: `requests` of them in one row."""

limits = Table(
    "limits",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("key_id", String, primary_key=True),
    Column("requests_per_minute", Integer),
    Column("tokens_per_minute", Integer),
    Column("concurrent", Integer),
    Column("budget_micro", Integer),
    Column("soft_budget_micro", Integer),
    Column("period", String, nullable=False),
    info={"topic": "limits"},
)
"""`key_id` "" is the tenant itself. None: no such limit."""

prices = Table(
    "prices",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("prompt_micro", Integer, nullable=False),
    Column("completion_micro", Integer, nullable=False),
    Column("request_micro", Integer, nullable=False),
    Column("audio_minute_micro", Integer, nullable=False, server_default="0"),
    info={"topic": "limits"},
)
"""Millionths of the currency: per million tokens, per request, and per minute of sound."""

responses = Table(
    "responses",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("body", Text, nullable=False),
    Index("responses_by_expiry", "expires_at"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("state", String, nullable=False),
    Column("wanted", String),
    Column("priority", Integer, nullable=False),
    Column("recipe", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("resolved", Text),
    Column("error", Text),
    Column("model", String),
    Column("progress", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("attempts", Integer, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("lease_owner", String),
    Column("lease_until", Float),
    Column("fence", Integer, nullable=False),
    Column("events_offset", Integer, nullable=False),
    Column("last_event", Integer, nullable=False, server_default="0"),
    Index("jobs_by_state", "state", "priority", "created_at"),
    Index("jobs_by_tenant", "tenant", "created_at", "id"),
    info={"topic": "jobs"},
)
"""`wanted` is what a running job is asked for: "pause" or "cancel". `fence` rises with every claim:
who writes with an older one writes nothing. `events_offset`: so many bytes of the events' file are
rows of `job_events`, the newest of which has the number `last_event`; `crashes` counts since the
newest checkpoint."""

job_events = Table(
    "job_events",
    metadata,
    Column("job", String, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("level", String, nullable=False),
    Column("type", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("data", Text, nullable=False),
    ForeignKeyConstraint(["job"], ["jobs.id"], ondelete="CASCADE"),
    info={"topic": "jobs"},
)

job_checkpoints = Table(
    "job_checkpoints",
    metadata,
    Column("id", String, primary_key=True),
    Column("job", String, nullable=False),
    Column("step", Integer, nullable=False),
    Column("metrics", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    ForeignKeyConstraint(["job"], ["jobs.id"], ondelete="CASCADE"),
    Index("job_checkpoints_by_step", "job", "step", unique=True),
    info={"topic": "jobs"},
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("url", String, nullable=False),
    Column("events", Text, nullable=False),
    Column("secret", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("webhooks_by_tenant", "tenant"),
    info={"topic": "webhooks"},
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", String, primary_key=True),
    Column("webhook", String, nullable=False),
    Column("type", String, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Float),
    Column("delivered_at", Float),
    Column("error", Text),
    ForeignKeyConstraint(["webhook"], ["webhooks.id"], ondelete="CASCADE"),
    Index("webhook_deliveries_by_next", "next_at"),
    Index("webhook_deliveries_by_webhook", "webhook", "created_at"),
    info={"topic": "webhooks"},
)
"""`next_at` None: it is delivered, or given up. `error` is that of the newest attempt."""

galleries = Table(
    "galleries",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("name", String, nullable=False),
    Column("model", String, nullable=False),
    Column("dimensions", Integer, nullable=False),
    Column("threshold", Float),
    Column("false_accept_rate", Float),
    Column("last_photo", Integer, nullable=False),
    Column("removals", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("galleries_by_name", "tenant", "name", unique=True),
    info={"topic": "galleries"},
)
"""Faces of known subjects. `model` is `name:version`, whose vectors they are. `last_photo` is the
number of the newest photo, `removals` counts what was deleted or renamed."""

gallery_subjects = Table(
    "gallery_subjects",
    metadata,
    Column("id", String, primary_key=True),
    Column("gallery", String, nullable=False),
    Column("tag", String, nullable=False),
    Column("name", String, nullable=False),
    Column("created_at", Float, nullable=False),
    ForeignKeyConstraint(["gallery"], ["galleries.id"], ondelete="CASCADE"),
    Index("gallery_subjects_by_gallery", "gallery", "id"),
    info={"topic": "galleries"},
)
"""`id` is a digest of gallery and name; the random `tag` is what audit lines say."""

gallery_photos = Table(
    "gallery_photos",
    metadata,
    Column("gallery", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("vector", LargeBinary, nullable=False),
    ForeignKeyConstraint(["subject"], ["gallery_subjects.id"], ondelete="CASCADE"),
    Index("gallery_photos_by_id", "id", unique=True),
    Index("gallery_photos_by_subject", "subject", "number"),
    info={"topic": "galleries"},
)
"""The vectors of faces: float32, little-endian, of length 1. No image is kept."""

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("action", String, nullable=False),
    Column("object", String, nullable=False),
    Column("detail", String, nullable=False),
    Index("audit_by_tenant", "tenant", "id"),
)
"""Who changed what, and when; never changed. It names no person: subjects are said by their tag."""
