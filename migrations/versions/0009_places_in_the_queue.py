"""Add an index in the order of the queue, to find the position of a task."""

import sqlalchemy as sa
from alembic import op

from app.db.migrations.indexes import create_index_if_missing

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

QUEUED = sa.text("status = 'queued'")
AHEAD = {"ix_tasks_queued": "tasks (account_id, priority, id, status) WHERE status = 'queued'"}


def upgrade() -> None:
    create_index_if_missing("ix_tasks_queued", "tasks", ["account_id", "priority", "id", "status"], where=QUEUED)


def downgrade() -> None:
    op.drop_index("ix_tasks_queued", "tasks")
