"""Add the application of a task and of what belongs to it.

Rows without it, which an earlier version writes, belong to the application whose id follows from that of their key.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

TABLES = ("tasks", "events", "slots", "erased")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("application_id", sa.String(48)))


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_column(table, "application_id")
