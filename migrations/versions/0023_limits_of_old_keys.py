"""Keep what the applications that were made from keys of an earlier version could do: they get no limits."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
APPLICATIONS = sa.table("applications", sa.column("limits", JSON))
UNLIMITED = {
    **dict.fromkeys(("queued", "uploads", "streams", "deliveries", "tests_per_minute")),
    "priority": 9,
}


def upgrade() -> None:
    op.execute(APPLICATIONS.update().where(APPLICATIONS.c.limits.is_(sa.null())).values(limits=UNLIMITED))


def downgrade() -> None:
    """Leave the limits: the version before this step does not read them."""
