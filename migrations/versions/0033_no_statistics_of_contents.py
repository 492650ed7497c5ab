"""Collect no statistics of columns with contents: they have samples of values, which outlive an erasure."""

import sqlalchemy as sa
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


def _change(table: str, change: str) -> str:
    changes = (change.format(name=name, kind=kind) for name, kind in CONTENTS[table].items())
    return f"ALTER TABLE {table} {', '.join(changes)}"


# Also delete what was collected: with the type that a column has already, nothing else of it changes.
CHANGES = {
    table: _change(table, "ALTER COLUMN {name} TYPE {kind}, ALTER COLUMN {name} SET STATISTICS 0") for table in CONTENTS
}
# A transaction that locked all these tables would often deadlock with those of the service.
ALONE = tuple(CHANGES.values())
IS_CHANGED = sa.text(
    "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped "
    "AND attstattarget = 0)"
)


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":  # SQLite samples no values
        return
    for table, change in CHANGES.items():
        if not op.get_bind().scalar(IS_CHANGED, {"name": table}):
            op.execute(change)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in CONTENTS:
            op.execute(_change(table, "ALTER COLUMN {name} SET STATISTICS -1"))
