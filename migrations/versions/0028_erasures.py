"""Add erasures with their receipts, and what each erased task leaves for them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
OPEN = sa.text("finished_at IS NULL")
OF_ERASURE = sa.text("erasure_id IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column("id", sa.String(48), primary_key=True),
        sa.Column("application_id", sa.String(48), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("subject", sa.String(48), nullable=False),
        sa.Column("requested_at", INSTANT, nullable=False),
        sa.Column("tasks_erased_at", INSTANT),
        sa.Column("finished_at", INSTANT),
        sa.Column("tasks", sa.Integer, nullable=False),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    op.create_index("ix_erasures_application_id_subject_id", "erasures", ["application_id", "subject", "id"])
    op.create_index("ix_erasures_open", "erasures", ["id"], sqlite_where=OPEN, postgresql_where=OPEN)
    op.add_column("erased", sa.Column("erasure_id", sa.String(48)))
    op.add_column("erased", sa.Column("digests", JSON))
    op.add_column("erased", sa.Column("images_removed_at", INSTANT))
    op.create_index(
        "ix_erased_erasure_id_task_id",
        "erased",
        ["erasure_id", "task_id"],
        sqlite_where=OF_ERASURE,
        postgresql_where=OF_ERASURE,
    )


def downgrade() -> None:
    op.drop_index("ix_erased_erasure_id_task_id", "erased")
    op.drop_column("erased", "images_removed_at")
    op.drop_column("erased", "digests")
    op.drop_column("erased", "erasure_id")
    op.drop_table("erasures")
