"""Add the visible prefix of a key, its expiry, its last use, and what ends when it is revoked."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
COLUMNS = ("prefix", "expires_at", "last_used_at", "stop_queued", "links_ended_at")


def upgrade() -> None:
    op.add_column("keys", sa.Column("prefix", sa.String(16)))
    op.add_column("keys", sa.Column("expires_at", INSTANT))
    op.add_column("keys", sa.Column("last_used_at", INSTANT))
    op.add_column("keys", sa.Column("stop_queued", sa.Boolean()))
    op.add_column("keys", sa.Column("links_ended_at", INSTANT))


def downgrade() -> None:
    for name in reversed(COLUMNS):
        op.drop_column("keys", name)
