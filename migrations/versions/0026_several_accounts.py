"""Add what several provider accounts need: their order, models and regions, and the account of each attempt."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.add_column("accounts", sa.Column("position", sa.Integer))
    op.add_column("accounts", sa.Column("region", sa.String(16)))
    op.add_column("accounts", sa.Column("models", JSON))
    op.add_column("accounts", sa.Column("lowered_to", sa.Integer))
    op.add_column("accounts", sa.Column("lowered_at", INSTANT))
    op.add_column("submissions", sa.Column("account_id", sa.String(48)))
    op.add_column("tasks", sa.Column("region", sa.String(16)))
    op.add_column("keys", sa.Column("region", sa.String(16)))


def downgrade() -> None:
    op.drop_column("keys", "region")
    op.drop_column("tasks", "region")
    op.drop_column("submissions", "account_id")
    for name in ("lowered_at", "lowered_to", "models", "region", "position"):
        op.drop_column("accounts", name)
