"""Add an index of the unsigned callbacks, for the list of them."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NOT_SIGNED = sa.text("witness = 'callback' AND verdict <> 'signed'")
AHEAD = {"ix_evidence_not_signed": "evidence (verdict, id) WHERE witness = 'callback' AND verdict <> 'signed'"}


def upgrade() -> None:
    op.create_index(
        "ix_evidence_not_signed",
        "evidence",
        ["verdict", "id"],
        sqlite_where=NOT_SIGNED,
        postgresql_where=NOT_SIGNED,
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_index("ix_evidence_not_signed", "evidence")
