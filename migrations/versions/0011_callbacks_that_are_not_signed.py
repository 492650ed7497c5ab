"""Add an index of the unsigned callbacks, for the list of them."""

import sqlalchemy as sa
from alembic import op

from app.db.migrations.indexes import create_index_if_missing

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

NOT_SIGNED = sa.text("witness = 'callback' AND verdict <> 'signed'")
AHEAD = {"ix_evidence_not_signed": "evidence (verdict, id) WHERE witness = 'callback' AND verdict <> 'signed'"}


def upgrade() -> None:
    create_index_if_missing("ix_evidence_not_signed", "evidence", ["verdict", "id"], where=NOT_SIGNED)


def downgrade() -> None:
    op.drop_index("ix_evidence_not_signed", "evidence")
