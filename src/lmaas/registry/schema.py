"""The tables. Every row carries its tenant. Changed only together with a numbered migration."""

from sqlalchemy import (
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

HEAD = "0002"
"""The newest migration: what this code's tables are."""

metadata = MetaData()

models = Table(
    "models",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("last_version", Integer, nullable=False),
    Column("deleted", Integer, nullable=False, default=0),
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
)

aliases = Table(
    "aliases",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("alias", String, primary_key=True),
    Column("version", Integer, nullable=False),
    ForeignKeyConstraint(["tenant", "name", "version"], _VERSION),
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
)
"""Compressed forms of a version; their files are rows of `files` with the role "variant"."""

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
)
"""Millionths of the currency: per million tokens, and per request."""

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
