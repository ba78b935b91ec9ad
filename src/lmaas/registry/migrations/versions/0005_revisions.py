"""What has changed, by topic; and the number of a job's newest event, with the job."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the revisions, and count the events that there are."""
    revisions = op.create_table(
        "revisions",
        sa.Column("topic", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
    )
    topics = ("models", "keys", "limits", "jobs", "webhooks")
    op.bulk_insert(revisions, [{"topic": topic, "number": 0} for topic in topics])
    op.add_column(
        "jobs", sa.Column("last_event", sa.Integer, nullable=False, server_default=sa.text("0"))
    )
    op.execute(
        "UPDATE jobs SET last_event = "
        "(SELECT coalesce(max(seq), 0) FROM job_events WHERE job = jobs.id)"
    )
