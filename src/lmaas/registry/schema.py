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

HEAD = "0001"
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
