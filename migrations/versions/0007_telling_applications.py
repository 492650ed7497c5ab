"""Add endpoints, deliveries and delivery attempts, and the default webhook settings of an API key."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ID = sa.String(48)
INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
DEFAULTS: dict[str, sa.types.TypeEngine[Any]] = {
    "notify_url": sa.Text(),
    "notify_secret": sa.Text(),
    "notify_form": sa.String(16),
    "notify_events": JSON,
}


def upgrade() -> None:
    op.create_table(
        "endpoints",
        sa.Column("id", ID, primary_key=True),
        sa.Column("key_id", ID, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("failing_since_at", INSTANT),
        sa.Column("rests_until_at", INSTANT),
        sa.Column("stopped_at", INSTANT),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.UniqueConstraint("key_id", "url", name="uq_endpoints_key_id_url"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", ID, primary_key=True),
        sa.Column("endpoint_id", ID, nullable=False),
        sa.Column("task_id", ID),
        sa.Column("event", sa.String(16), nullable=False),
        sa.Column("form", sa.String(16), nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("secret", sa.Text),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("detail", sa.Text),
        sa.Column("planned_at", INSTANT, nullable=False),
        sa.Column("due_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
    )
    op.create_index("ix_deliveries_endpoint_id_state_due_at", "deliveries", ["endpoint_id", "state", "due_at"])
    op.create_index("ix_deliveries_task_id", "deliveries", ["task_id"])
    op.create_index("ix_deliveries_state_ended_at", "deliveries", ["state", "ended_at"])
    op.create_table(
        "delivery_attempts",
        sa.Column("id", ID, primary_key=True),
        sa.Column("delivery_id", ID, nullable=False),
        sa.Column("http_status", sa.Integer),
        sa.Column("error", sa.String(16)),
        sa.Column("latency_ms", sa.Integer),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.Column("began_at", INSTANT, nullable=False),
    )
    op.create_index("ix_delivery_attempts_delivery_id_id", "delivery_attempts", ["delivery_id", "id"])
    for name, kind in DEFAULTS.items():
        op.add_column("keys", sa.Column(name, kind))


def downgrade() -> None:
    for name in DEFAULTS:
        op.drop_column("keys", name)
    for table in ("delivery_attempts", "deliveries", "endpoints"):
        op.drop_table(table)
