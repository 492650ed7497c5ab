"""Add whether an image carries content credentials."""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("results", sa.Column("content_credentials", sa.Boolean))


def downgrade() -> None:
    op.drop_column("results", "content_credentials")
