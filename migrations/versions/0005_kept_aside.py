"""Add the record of which instance spools the bytes of an attempt."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "kept_aside",
        sa.Column("submission_id", sa.String(48), primary_key=True),
        sa.Column("instance", sa.String(48), primary_key=True),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("tried_at", INSTANT),
        sa.Column("kept_at", INSTANT, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("kept_aside")
