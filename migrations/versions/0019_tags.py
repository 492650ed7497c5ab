"""Add end users and metadata of tasks, and the table that finds tasks by them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("tasks", sa.Column("end_user", sa.String(256)))
    op.add_column("tasks", sa.Column("metadata", JSON))
    op.create_table(
        "task_tags",
        sa.Column("application_id", sa.String(48), primary_key=True),
        sa.Column("tag", sa.String(32), primary_key=True),
        sa.Column("task_id", sa.String(48), primary_key=True),
    )


def downgrade() -> None:
    op.drop_table("task_tags")
    op.drop_column("tasks", "metadata")
    op.drop_column("tasks", "end_user")
