"""The entry point of Alembic: runs the migrations on the connection of `app/db/migrations/migrate.py`."""

from alembic import context

from app.db.migrations import all_tables
from app.jobs import sqlite  # noqa: F401 - adds its table to the metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=all_tables.metadata,
    render_as_batch=connection.dialect.name == "sqlite",  # SQLite alters a table by copying it
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
