"""Add the webhook settings of a task."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "notify_url": sa.Text(),
    "notify_secret": sa.Text(),
    "notify_form": sa.String(16),
    "notify_events": JSON,
    "notify_origin": sa.Text(),
}


def upgrade() -> None:
    for name, kind in COLUMNS.items():
        op.add_column("tasks", sa.Column(name, kind))


def downgrade() -> None:
    for name in COLUMNS:
        op.drop_column("tasks", name)
