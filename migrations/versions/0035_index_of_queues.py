"""Add the index of the queues of each account and model, in which the overview and the metrics count them.

On PostgreSQL it does not begin with `status`; migration 0027 says why.
"""

import sqlalchemy as sa
from alembic import op

from app.db.migrations.indexes import create_index_if_missing, drop_index_if_present

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

COLUMNS = ["account_id", "model", "dispatch_after_at"]
QUEUED = "status = 'queued'"
# Created concurrently before the migration, which would lock the table.
AHEAD = {"ix_tasks_by_queue": f"tasks ({', '.join(COLUMNS)}) WHERE {QUEUED}"}


def upgrade() -> None:
    status = ["status"] if op.get_bind().dialect.name == "sqlite" else []
    create_index_if_missing("ix_tasks_by_queue", "tasks", [*status, *COLUMNS], where=sa.text(QUEUED))


def downgrade() -> None:
    drop_index_if_present("ix_tasks_by_queue", "tasks")
