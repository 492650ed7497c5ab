"""Add an index of the test deliveries, for the rounds of an endpoint that is backing off."""

import sqlalchemy as sa
from alembic import op

from app.db.migrations.indexes import create_index_if_missing

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

IS_TEST = sa.text("event = 'test'")
AHEAD = {"ix_deliveries_tests": "deliveries (endpoint_id, state, due_at) WHERE event = 'test'"}


def upgrade() -> None:
    create_index_if_missing("ix_deliveries_tests", "deliveries", ["endpoint_id", "state", "due_at"], where=IS_TEST)


def downgrade() -> None:
    op.drop_index("ix_deliveries_tests", "deliveries")
