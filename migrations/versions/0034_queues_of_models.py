"""Add the index of the queues of each application and model, and that of the deadlines of queued tasks.

The version before finds the next tasks in `ix_tasks_next`, so that one stays. On PostgreSQL, the one for them does not
begin with `status` either; migration 0027 says why.
"""

import sqlalchemy as sa
from alembic import op

from app.db.migrations.indexes import create_index_if_missing, drop_index_if_present

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

APPLICATION = "coalesce(application_id, 'app' || substr(key_id, 4))"
REST = "model, priority DESC, id, region, dispatch_after_at, created_at, application_id, key_id"
QUEUED = "status = 'queued'"
HAS_DEADLINE = f"{QUEUED} AND deadline_at IS NOT NULL"
# Created concurrently before the migration, which would lock the table.
AHEAD = {
    "ix_tasks_next_of_model": f"tasks (({APPLICATION}), {REST}) WHERE {QUEUED}",
    "ix_tasks_deadline": f"tasks (status, deadline_at, id) WHERE {HAS_DEADLINE}",
}


def upgrade() -> None:
    status = ["status"] if op.get_bind().dialect.name == "sqlite" else []
    columns: list[str | sa.TextClause] = [*status, sa.text(APPLICATION), *map(sa.text, REST.split(", "))]
    create_index_if_missing("ix_tasks_next_of_model", "tasks", columns, where=sa.text(QUEUED))
    create_index_if_missing("ix_tasks_deadline", "tasks", ["status", "deadline_at", "id"], where=sa.text(HAS_DEADLINE))


def downgrade() -> None:
    drop_index_if_present("ix_tasks_deadline", "tasks")
    drop_index_if_present("ix_tasks_next_of_model", "tasks")
