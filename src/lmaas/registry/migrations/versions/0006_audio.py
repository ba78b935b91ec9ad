"""Seconds of sound in the usage rows, and what a minute of it costs."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the columns; rows so far have heard nothing."""
    op.add_column("usage", sa.Column("audio_ms", sa.Integer, nullable=False, server_default="0"))
    op.add_column(
        "prices", sa.Column("audio_minute_micro", sa.Integer, nullable=False, server_default="0")
    )
