"""Usage, limits and prices; variants of versions; stored responses."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables that language models brought."""
    _create_accounts()
    _create_variants()
    _create_responses()


def _create_accounts() -> None:
    op.create_table(
        "usage",
        sa.Column("request_id", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("key_id", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("endpoint", sa.String, nullable=False),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("duration_ms", sa.Float, nullable=False),
        sa.Column("prompt_tokens", sa.Integer, nullable=False),
        sa.Column("completion_tokens", sa.Integer, nullable=False),
        sa.Column("reasoning_tokens", sa.Integer, nullable=False),
        sa.Column("cached_tokens", sa.Integer, nullable=False),
        sa.Column("cost_micro", sa.Integer, nullable=False),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("error_code", sa.String),
    )
    op.create_index("usage_by_tenant", "usage", ["tenant", "started_at", "cost_micro"])
    op.create_index("usage_by_key", "usage", ["key_id", "started_at", "cost_micro"])
    op.create_table(
        "limits",
        sa.Column("tenant", sa.String, primary_key=True),
        sa.Column("key_id", sa.String, primary_key=True),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("tokens_per_minute", sa.Integer),
        sa.Column("concurrent", sa.Integer),
        sa.Column("budget_micro", sa.Integer),
        sa.Column("soft_budget_micro", sa.Integer),
        sa.Column("period", sa.String, nullable=False),
    )
    op.create_table(
        "prices",
        sa.Column("tenant", sa.String, primary_key=True),
        sa.Column("model", sa.String, primary_key=True),
        sa.Column("prompt_micro", sa.Integer, nullable=False),
        sa.Column("completion_micro", sa.Integer, nullable=False),
        sa.Column("request_micro", sa.Integer, nullable=False),
    )


def _create_variants() -> None:
    version, target = ["tenant", "name", "version"], [
        "versions.tenant", "versions.name", "versions.version"
    ]  # fmt: skip
    op.create_table(
        "variants",
        sa.Column("tenant", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("variant", sa.String, primary_key=True),
        sa.Column("report", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(version, target, ondelete="CASCADE"),
    )


def _create_responses() -> None:
    op.create_table(
        "responses",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("key_id", sa.String, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("responses_by_expiry", "responses", ["expires_at"])
