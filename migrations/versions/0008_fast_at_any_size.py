"""Add indexes that keep reads fast for any number of ended tasks."""

import sqlalchemy as sa
from alembic import op

from app.db.migrations.indexes import create_index_if_missing, drop_index_if_present

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NAMED = sa.text("provider_id IS NOT NULL")
# Created concurrently before the migration, which would lock tables that may be large.
AHEAD = {
    "ix_submissions_provider_id": "submissions (provider_id) WHERE provider_id IS NOT NULL",
    "ix_tasks_model_status_id": "tasks (model, status, id)",
    "ix_deliveries_endpoint_id_state_id": "deliveries (endpoint_id, state, id)",
    "ix_deliveries_state_id": "deliveries (state, id)",
}


def upgrade() -> None:
    create_index_if_missing("ix_submissions_provider_id", "submissions", ["provider_id"], where=NAMED)
    create_index_if_missing("ix_tasks_model_status_id", "tasks", ["model", "status", "id"])
    by_place = ["endpoint_id", "state", "id"]
    create_index_if_missing("ix_deliveries_endpoint_id_state_id", "deliveries", by_place)
    create_index_if_missing("ix_deliveries_state_id", "deliveries", ["state", "id"])
    drop_index_if_present("ix_tasks_model_id", "tasks")  # the previous version finds its tasks without it


def downgrade() -> None:
    op.create_index("ix_tasks_model_id", "tasks", ["model", "id"])
    op.drop_index("ix_deliveries_state_id", "deliveries")
    op.drop_index("ix_deliveries_endpoint_id_state_id", "deliveries")
    op.drop_index("ix_tasks_model_status_id", "tasks")
    op.drop_index("ix_submissions_provider_id", "submissions")
