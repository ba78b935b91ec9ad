"""Jobs with their events and checkpoints."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the tables of jobs."""
    _create_jobs()
    _create_job_events()
    _create_job_checkpoints()


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("key_id", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("wanted", sa.String),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("resolved", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("model", sa.String),
        sa.Column("progress", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("lease_owner", sa.String),
        sa.Column("lease_until", sa.Float),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("events_offset", sa.Integer, nullable=False),
    )
    op.create_index("jobs_by_state", "jobs", ["state", "priority", "created_at"])
    op.create_index("jobs_by_tenant", "jobs", ["tenant", "created_at", "id"])


def _create_job_events() -> None:
    op.create_table(
        "job_events",
        sa.Column("job", sa.String, primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("level", sa.String, nullable=False),
        sa.Column("type", sa.String, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], ondelete="CASCADE"),
    )


def _create_job_checkpoints() -> None:
    op.create_table(
        "job_checkpoints",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("job", sa.String, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], ondelete="CASCADE"),
    )
    op.create_index("job_checkpoints_by_step", "job_checkpoints", ["job", "step"], unique=True)
