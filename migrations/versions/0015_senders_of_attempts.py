"""Add the sender of an attempt."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("submissions", sa.Column("sender", sa.String(48)))


def downgrade() -> None:
    op.drop_column("submissions", "sender")
