"""Add PgQueuer's tables for the jobs on PostgreSQL. The table `jobs` stays for the release before this one."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# A queue is small and changes all the time. With the default thresholds its dead rows would be vacuumed too late.
_VACUUM_SOON = """
ALTER TABLE pgqueuer SET (
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 500
)
"""
# A dead letter and a waiting job may have the same step and task; two waiting jobs may not.
_TAKE_OVER = """
INSERT INTO pgqueuer (priority, execute_after, status, entrypoint, dedupe_key, payload, attempts)
SELECT 0, min(run_at), (CASE state WHEN 'held' THEN 'failed' ELSE 'queued' END)::pgqueuer_status, step,
    step || ':' || task_id, convert_to(task_id, 'UTF8'), max(failures)
FROM jobs
GROUP BY step, task_id, 3
"""


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    from app.jobs.pgqueuer_schema import install  # noqa: PLC0415 - SQLite does not need PgQueuer

    _run_script(install())
    op.execute("CREATE INDEX ix_pgqueuer_held ON pgqueuer (dedupe_key) WHERE status = 'failed'")
    op.execute(_VACUUM_SOON)
    op.execute(_TAKE_OVER)


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    from app.jobs.pgqueuer_schema import uninstall  # noqa: PLC0415

    _run_script(uninstall())


def _run_script(script: str) -> None:
    """Run several statements at once in the open transaction; only the driver's own connection accepts that."""
    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None  # noqa: S101 - an open transaction has one
    connection.run_async(lambda driver: driver.execute(script))
