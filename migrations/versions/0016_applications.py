"""Add applications. Each API key becomes one, whose id follows from the key's: `app_X` for `key_X`."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "applications",
        sa.Column("id", sa.String(48), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("disabled_at", INSTANT),
        sa.Column("webhook_url", sa.Text),
        sa.Column("webhook_secret", sa.Text),
        sa.Column("webhook_form", sa.String(16)),
        sa.Column("webhook_events", JSON),
        sa.Column("limits", JSON),
        sa.Column("budget", JSON),
        sa.Column("retention_days", JSON),
    )
    op.add_column("keys", sa.Column("application_id", sa.String(48)))
    op.execute("UPDATE keys SET application_id = 'app' || substr(id, 4)")
    op.execute(
        "INSERT INTO applications (id, name, created_at) "
        "SELECT application_id, min(name), min(created_at) FROM keys GROUP BY application_id"
    )


def downgrade() -> None:
    op.drop_column("keys", "application_id")
    op.drop_table("applications")
