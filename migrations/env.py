"""Alembic's entry: runs the steps on the connection it is handed (see `app/record/migrate.py`)."""

from alembic import context

from app.jobs import embedded  # noqa: F401 - its table joins the metadata
from app.record import schema

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=schema.metadata,
    render_as_batch=connection.dialect.name == "sqlite",  # SQLite alters a table by copying it
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
