"""Add indexes for the tasks and the events of one application."""

import sqlalchemy as sa

from app.db.migrations.indexes import create_index_if_missing, drop_index_if_present

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

APPLICATION = "coalesce(application_id, 'app' || substr(key_id, 4))"
# Created concurrently before the migration, which would lock tables that may be large.
AHEAD = {
    "ix_tasks_application_status_id": f"tasks ({APPLICATION}, status, id)",
    "ix_tasks_application_model_status_id": f"tasks ({APPLICATION}, model, status, id)",
    "ix_events_application_xid_sequence": f"events ({APPLICATION}, xid, sequence)",
}


def upgrade() -> None:
    application = sa.text(APPLICATION)
    create_index_if_missing("ix_tasks_application_status_id", "tasks", [application, "status", "id"])
    create_index_if_missing("ix_tasks_application_model_status_id", "tasks", [application, "model", "status", "id"])
    create_index_if_missing("ix_events_application_xid_sequence", "events", [application, "xid", "sequence"])


def downgrade() -> None:
    drop_index_if_present("ix_events_application_xid_sequence", "events")
    drop_index_if_present("ix_tasks_application_model_status_id", "tasks")
    drop_index_if_present("ix_tasks_application_status_id", "tasks")
