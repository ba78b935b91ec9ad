"""Galleries of faces, their subjects and vectors; and an audit of their changes."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the tables, and the topic that tells other processes of changes."""
    op.create_table(
        "galleries",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("dimensions", sa.Integer, nullable=False),
        sa.Column("threshold", sa.Float),
        sa.Column("false_accept_rate", sa.Float),
        sa.Column("last_photo", sa.Integer, nullable=False),
        sa.Column("removals", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_index("galleries_by_name", "galleries", ["tenant", "name"], unique=True)
    op.create_table(
        "gallery_subjects",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("gallery", sa.String, nullable=False),
        sa.Column("tag", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(["gallery"], ["galleries.id"], ondelete="CASCADE"),
    )
    op.create_index("gallery_subjects_by_gallery", "gallery_subjects", ["gallery", "id"])
    op.create_table(
        "gallery_photos",
        sa.Column("gallery", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["subject"], ["gallery_subjects.id"], ondelete="CASCADE"),
    )
    op.create_index("gallery_photos_by_id", "gallery_photos", ["id"], unique=True)
    op.create_index("gallery_photos_by_subject", "gallery_photos", ["subject", "number"])
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("key_id", sa.String, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("object", sa.String, nullable=False),
        sa.Column("detail", sa.String, nullable=False),
    )
    op.create_index("audit_by_tenant", "audit", ["tenant", "id"])
    revisions = sa.table("revisions", sa.column("topic"), sa.column("number"))
    op.bulk_insert(revisions, [{"topic": "galleries", "number": 0}])
