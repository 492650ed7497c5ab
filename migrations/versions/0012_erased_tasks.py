"""Add the record of erased tasks."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "erased",
        sa.Column("task_id", sa.String(48), primary_key=True),
        sa.Column("key_id", sa.String(48), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("money_spent", sa.String(8)),
        sa.Column("cost", sa.Float),
        sa.Column("store_keys", JSON, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("erased_at", INSTANT, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("erased")
