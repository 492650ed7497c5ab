"""Bring a database to the schema of this version, by the numbered steps in `migrations/`."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

_ROOT = Path(__file__).resolve().parents[2]


def upgrade(connection: Connection) -> None:
    """Run the missing steps in the transaction of this connection."""
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def is_current(connection: Connection) -> bool:
    """Whether no step is missing."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == head


def _config() -> Config:
    return Config(toml_file=_ROOT / "pyproject.toml")
