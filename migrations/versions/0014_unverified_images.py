"""Record why an image that was paid for could not be verified."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("results", sa.Column("unverified_image", sa.Text()))


def downgrade() -> None:
    with op.batch_alter_table("results") as results:
        results.drop_column("unverified_image")
