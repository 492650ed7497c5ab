"""Collect no statistics of columns with contents: they have samples of values, which outlive an erasure."""

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

CONTENTS = {
    "tasks": {
        "request": "jsonb",
        "end_user": "varchar(256)",
        "metadata": "jsonb",
        "failure_detail": "text",
        "sample_url": "text",
        "notify_url": "text",
    },
    "submissions": {"polling_url": "text", "detail": "text"},
    "evidence": {"detail": "text", "headers": "jsonb", "body": "bytea"},
    "downloads": {"detail": "text"},
    "deliveries": {"payload": "jsonb", "detail": "text"},
    "delivery_attempts": {"answer": "bytea"},
    "idempotency": {"idempotency_key": "varchar(255)", "answer": "jsonb"},
}


def upgrade() -> None:
    """Also delete what was collected: with the type that a column has already, nothing else of it changes."""
    _alter("ALTER COLUMN {name} TYPE {kind}, ALTER COLUMN {name} SET STATISTICS 0")


def downgrade() -> None:
    _alter("ALTER COLUMN {name} SET STATISTICS -1")


def _alter(change: str) -> None:
    if op.get_bind().dialect.name != "postgresql":  # SQLite samples no values
        return
    for table, columns in CONTENTS.items():
        changes = (change.format(name=name, kind=kind) for name, kind in columns.items())
        op.execute(f"ALTER TABLE {table} {', '.join(changes)}")  # security: names of ours
