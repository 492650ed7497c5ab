"""Requests whose answer has not been delivered, so that a retry joins their tasks."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "undelivered_requests",
        sa.Column("id", sa.String(48), primary_key=True),
        sa.Column("application_id", sa.String(48), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("task_ids", JSON, nullable=False),
        sa.Column("process_id", sa.String(48), nullable=False),
        sa.Column("answer_due_at", INSTANT),
        sa.Column("tried_at", INSTANT, nullable=False),
    )
    op.create_index(
        "ix_undelivered_requests_application_id_digest", "undelivered_requests", ["application_id", "digest"]
    )


def downgrade() -> None:
    op.drop_table("undelivered_requests")
