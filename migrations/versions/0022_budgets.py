"""Add budgets: what was spent in each period, what each task has reserved, and the rates of requests."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("tasks", sa.Column("estimated_cost", sa.Float))
    op.add_column("erased", sa.Column("estimated_cost", sa.Float))
    op.add_column("erased", sa.Column("account_id", sa.String(48)))
    op.create_table(
        "budget_periods",
        sa.Column("owner", sa.String(48), primary_key=True),
        sa.Column("period", sa.String(8), primary_key=True),
        sa.Column("starts_at", INSTANT, primary_key=True),
        sa.Column("spent", sa.Float, nullable=False),
        sa.Column("warned_at", INSTANT),
    )
    op.create_table(
        "reservations",
        sa.Column("task_id", sa.String(48), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.String(48), primary_key=True),
        sa.Column("period", sa.String(8), nullable=False),
        sa.Column("starts_at", INSTANT, nullable=False),
        sa.Column("reserved", sa.Float, nullable=False),
        sa.Column("amount", sa.Float, nullable=False),
        sa.Column("first", sa.Integer, nullable=False),
        sa.Column("until", sa.Integer),
    )
    op.create_table(
        "request_rates",
        sa.Column("application_id", sa.String(48), primary_key=True),
        sa.Column("rate", sa.String(32), primary_key=True),
        sa.Column("busy_until_at", INSTANT, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("request_rates")
    op.drop_table("reservations")
    op.drop_table("budget_periods")
    op.drop_column("erased", "account_id")
    op.drop_column("erased", "estimated_cost")
    op.drop_column("tasks", "estimated_cost")
