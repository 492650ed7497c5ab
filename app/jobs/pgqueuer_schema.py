"""The names of PgQueuer's objects in the database, and the scripts that create and remove them."""

from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.domain.types import Channel

# All names are set: PgQueuer reads any other from environment variables as common as FUNCTION and CHANNEL.
SETTINGS = DBSettings(
    prefix="",
    db_schema=None,
    channel=Channel("ch_pgqueuer"),
    function="fn_pgqueuer_changed",
    statistics_table="pgqueuer_statistics",
    queue_status_type="pgqueuer_status",
    queue_table="pgqueuer",
    queue_table_log="pgqueuer_log",
    trigger="tg_pgqueuer_changed",
    schedules_table="pgqueuer_schedules",
    durability=Durability.balanced,  # jobs survive a crash of the server, the log of past jobs does not
)


def install() -> str:
    """Return a script that creates the schema of the installed version of PgQueuer."""
    return QueryBuilderEnvironment(SETTINGS).build_install_query()


def uninstall() -> str:
    """Return a script that removes the schema."""
    return QueryBuilderEnvironment(SETTINGS).build_uninstall_query()
