"""Add the indexes of the queue of all accounts.

The version before still uses those of the queues of single accounts, so they stay.

On PostgreSQL, `ix_tasks_next` does not begin with `status`: the planner drops a condition that the predicate of a
partial index implies, and would then read the index from its start. SQLite needs it, to prefer this index to others.
"""

import sqlalchemy as sa
from alembic import op

from app.db.migrations.indexes import create_index_if_missing, drop_index_if_present

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

APPLICATION = "coalesce(application_id, 'app' || substr(key_id, 4))"
QUEUED = sa.text("status = 'queued'")
REST = "priority DESC, id, model, region, dispatch_after_at, created_at, application_id, key_id"
# Created concurrently before the migration, which would lock the table.
AHEAD = {
    "ix_tasks_places": "tasks (status, priority, id) WHERE status = 'queued'",
    "ix_tasks_next": f"tasks (({APPLICATION}), {REST}) WHERE status = 'queued'",
}


def upgrade() -> None:
    create_index_if_missing("ix_tasks_places", "tasks", ["status", "priority", "id"], where=QUEUED)
    status = ["status"] if op.get_bind().dialect.name == "sqlite" else []
    columns: list[str | sa.TextClause] = [*status, sa.text(APPLICATION), *map(sa.text, REST.split(", "))]
    create_index_if_missing("ix_tasks_next", "tasks", columns, where=QUEUED)


def downgrade() -> None:
    drop_index_if_present("ix_tasks_next", "tasks")
    drop_index_if_present("ix_tasks_places", "tasks")
