"""Add the index of the queues of each account and model, in which the overview and the metrics count them.

On PostgreSQL it does not begin with `status`; migration 0027 says why. There its predicate has a condition that each
task meets, so that no other statement uses it: for a short queue, the planner takes any index with the right predicate.
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
OF_POSTGRES = f"{QUEUED} AND model >= ''"
# Created concurrently before the migration, which would lock the table.
AHEAD = {"ix_tasks_by_queue": f"tasks ({', '.join(COLUMNS)}) WHERE {OF_POSTGRES}"}


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    columns = ["status", *COLUMNS] if is_sqlite else COLUMNS
    create_index_if_missing("ix_tasks_by_queue", "tasks", columns, where=sa.text(QUEUED if is_sqlite else OF_POSTGRES))


def downgrade() -> None:
    drop_index_if_present("ix_tasks_by_queue", "tasks")
