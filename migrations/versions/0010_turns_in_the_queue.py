"""Add an index of the queue by API key, to find the key whose task is admitted next."""

import sqlalchemy as sa
from alembic import op

from app.db.migrations.indexes import create_index_if_missing

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

QUEUED = sa.text("status = 'queued'")
DESCENDING = sa.text("priority DESC")
BY_TURN = ("account_id", "key_id", DESCENDING, "id", "status", "model", "dispatch_after_at", "created_at")
AHEAD = {
    "ix_tasks_turns": "tasks (account_id, key_id, priority DESC, id, status, model, dispatch_after_at, created_at)"
    " WHERE status = 'queued'"
}


def upgrade() -> None:
    create_index_if_missing("ix_tasks_turns", "tasks", BY_TURN, where=QUEUED)


def downgrade() -> None:
    op.drop_index("ix_tasks_turns", "tasks")
