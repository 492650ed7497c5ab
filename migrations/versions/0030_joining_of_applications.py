"""Add whether the retries of an application join."""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("applications", sa.Column("join_retries", sa.Boolean))


def downgrade() -> None:
    op.drop_column("applications", "join_retries")
