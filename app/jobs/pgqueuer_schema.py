"""How PgQueuer's objects are called here, and the statements that make and remove them."""

from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.domain.types import Channel

# Each name is given: PgQueuer would read those left out from variables as common as FUNCTION and CHANNEL.
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
    durability=Durability.balanced,  # jobs are kept through a crash of the server, the log of past ones is not
)


def install() -> str:
    """A script that makes the schema of the installed version."""
    return QueryBuilderEnvironment(SETTINGS).build_install_query()


def uninstall() -> str:
    return QueryBuilderEnvironment(SETTINGS).build_uninstall_query()
