"""Create the first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(48)
INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", ID, primary_key=True),
        sa.Column("key_id", ID, nullable=False),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("failure", sa.String(32)),
        sa.Column("failure_detail", sa.Text),
        sa.Column("money_spent", sa.String(8)),
        sa.Column("request", JSON, nullable=False),
        sa.Column("warnings", JSON, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("deadline_at", INSTANT),
        sa.Column("dispatch_after_at", INSTANT, nullable=False),
        sa.Column("submission_id", ID, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("cost", sa.Float),
        sa.Column("seed", sa.Text),
        sa.Column("sample_url", sa.Text),
        sa.Column("sample_expires_at", INSTANT),
        sa.Column("created_at", INSTANT, nullable=False),
        *(
            sa.Column(f"{phase}_at", INSTANT)
            for phase in ("submitting", "submitted", "ready", "stored", "failed", "cancelled", "unwanted")
        ),
    )
    op.create_index("ix_tasks_status_id", "tasks", ["status", "id"])
    op.create_index("ix_tasks_model_id", "tasks", ["model", "id"])

    op.create_table(
        "submissions",
        sa.Column("id", ID, primary_key=True),
        sa.Column("task_id", ID, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("ring_key", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("called_back", sa.Boolean, nullable=False),
        sa.Column("provider_id", sa.Text),
        sa.Column("polling_url", sa.Text),
        sa.Column("cost", sa.Float),
        sa.Column("detail", sa.Text),
        sa.Column("planned_at", INSTANT, nullable=False),
        sa.Column("asked_at", INSTANT),
        sa.Column("answered_at", INSTANT),
    )
    op.create_index("ix_submissions_task_id", "submissions", ["task_id"])

    op.create_table(
        "evidence",
        sa.Column("id", ID, primary_key=True),
        sa.Column("submission_id", ID, nullable=False),
        sa.Column("witness", sa.String(16), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("said", sa.String(16), nullable=False),
        sa.Column("effect", sa.String(16), nullable=False),
        sa.Column("detail", sa.Text),
        sa.Column("http_status", sa.Integer),
        sa.Column("headers", JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("copies", sa.Integer, nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.Column("last_received_at", INSTANT, nullable=False),
        sa.UniqueConstraint(
            "submission_id",
            "witness",
            "verdict",
            "digest",
            name="uq_evidence_submission_id_witness_verdict_digest",
        ),
    )

    op.create_table(
        "results",
        sa.Column("task_id", ID, primary_key=True),
        sa.Column("store_key", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("media_type", sa.String(32), nullable=False),
        sa.Column("bytes", sa.Integer, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("stored_at", INSTANT, nullable=False),
    )
    op.create_index("ix_results_sha256", "results", ["sha256"])

    op.create_table(
        "downloads",
        sa.Column("id", ID, primary_key=True),
        sa.Column("task_id", ID, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("detail", sa.Text),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT, nullable=False),
    )
    op.create_index("ix_downloads_task_id", "downloads", ["task_id"])

    op.create_table(
        "accounts",
        sa.Column("id", ID, primary_key=True),
        sa.Column("provider", sa.String(32), nullable=False),
        sa.Column("limits", JSON, nullable=False),
        sa.Column("refusals", sa.Integer, nullable=False),
        sa.Column("refused_since_at", INSTANT),
        sa.Column("paused_until_at", INSTANT),
        sa.Column("pause_reason", sa.Text),
    )
    op.create_table(
        "slots",
        sa.Column("account_id", ID, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("task_id", ID, nullable=False, unique=True),
        sa.Column("key_id", ID, nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("taken_at", INSTANT, nullable=False),
    )
    op.create_table(
        "idempotency",
        sa.Column("key_id", ID, primary_key=True),
        sa.Column("idempotency_key", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("answer", JSON),
        sa.Column("began_at", INSTANT, nullable=False),
    )
    op.create_index("ix_idempotency_began_at", "idempotency", ["began_at"])

    op.create_table(
        "keys",
        sa.Column("id", ID, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("disabled_at", INSTANT),
    )

    op.create_table(
        "jobs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("task_id", ID, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("run_at", INSTANT, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("last_error", sa.Text),
        sqlite_autoincrement=True,
    )
    waiting = sa.text("state = 'waiting'")
    op.create_index(
        "uq_jobs_waiting",
        "jobs",
        ["step", "task_id"],
        unique=True,
        sqlite_where=waiting,
        postgresql_where=waiting,
    )
    op.create_index("ix_jobs_state_run_at", "jobs", ["state", "run_at"])


def downgrade() -> None:
    for table in ("jobs", "keys", "idempotency", "slots", "accounts"):
        op.drop_table(table)
    for table in ("downloads", "results", "evidence", "submissions", "tasks"):
        op.drop_table(table)
