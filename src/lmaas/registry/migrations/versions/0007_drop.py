"""What a compressed variant loses is called `drop`, whatever the metric is: a rename."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Rename it in the reports that there are."""
    variants = sa.table(
        "variants",
        *(sa.column(name) for name in ("tenant", "name", "version", "variant", "report")),
    )
    connection = op.get_bind()
    for row in connection.execute(sa.select(variants)).fetchall():
        report = json.loads(row.report)
        report["drop"] = report.pop("perplexity_rise")
        connection.execute(
            variants.update()
            .where(
                variants.c.tenant == row.tenant,
                variants.c.name == row.name,
                variants.c.version == row.version,
                variants.c.variant == row.variant,
            )
            .values(report=json.dumps(report))
        )
