"""Add retention by class: what was removed, how far retention has come, and an index of the ends of tasks."""

import sqlalchemy as sa
from alembic import op

from app.db.migrations.indexes import create_index_if_missing, drop_index_if_present

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
APPLICATION = "coalesce(application_id, 'app' || substr(key_id, 4))"
ENDED_AT = "coalesce(stored_at, failed_at, cancelled_at)"
FINAL = "status = 'stored' OR status = 'failed' OR status = 'cancelled'"
# Created concurrently before the migration, which would lock a table that may be large.
AHEAD = {"ix_tasks_ended": f"tasks ({APPLICATION}, {ENDED_AT}, id) WHERE {FINAL}"}


def upgrade() -> None:
    op.create_table(
        "retention_progress",
        sa.Column("application_id", sa.String(48), primary_key=True),
        sa.Column("data", sa.String(16), primary_key=True),
        sa.Column("ended_at", INSTANT, nullable=False),
        sa.Column("subject", sa.String(48), nullable=False),
    )
    op.create_table(
        "removals",
        sa.Column("store_key", sa.Text, primary_key=True),
        sa.Column("requested_at", INSTANT, nullable=False),
    )
    op.add_column("results", sa.Column("removed_at", INSTANT))
    op.add_column("tasks", sa.Column("inputs_removed_at", INSTANT))
    application, ended_at = sa.text(APPLICATION), sa.text(ENDED_AT)
    create_index_if_missing("ix_tasks_ended", "tasks", [application, ended_at, "id"], where=sa.text(FINAL))


def downgrade() -> None:
    drop_index_if_present("ix_tasks_ended", "tasks")
    op.drop_column("tasks", "inputs_removed_at")
    op.drop_column("results", "removed_at")
    op.drop_table("removals")
    op.drop_table("retention_progress")
