import hashlib
import json
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from app.db import Connection
from app.db.engine.database import Database
from app.db.tables import evidence
from app.db.tables.evidence import NewEvidence
from app.rules.task import Effect, Said, Witness
from app.security.verify import Verdict
from tests.rows import START, plan_attempt, plan_task, write_now


def row(name: str, verdict: Verdict = Verdict.SIGNED, body: bytes = b"{}", **changes: Any) -> NewEvidence:
    """Return a row with a callback for the attempt `sub_1`."""
    values: dict[str, Any] = {
        "id": f"ev_{name}",
        "attempt_id": "sub_1",
        "witness": Witness.CALLBACK,
        "verdict": verdict,
        "digest": hashlib.sha256(body).hexdigest(),
        "said": Said.READY,
        "effect": Effect.MOVED,
        "detail": None,
        "http_status": None,
        "headers": "{}",
        "body": body,
        "copies": 1,
        "received_at": START,
        "last_received_at": START,
    }
    return NewEvidence(**{**values, **changes})


async def test_body_and_headers_are_stored_unchanged(database: Database) -> None:
    body, headers = bytes(range(256)), {"x-odd": 'ü"\\'}

    def unit(connection: Connection) -> Any:
        plan_task(connection)
        write_now(connection, evidence.upsert, [row("1", body=body, headers=json.dumps(headers))])
        return connection.execute(select(evidence.evidence.c.body, evidence.evidence.c.headers)).one()

    kept = await database.write(unit)

    assert (kept.body, kept.headers) == (body, headers)


async def test_a_copy_is_counted_and_the_first_effect_stays(database: Database) -> None:
    later = START + timedelta(seconds=5)

    def unit(connection: Connection) -> list[evidence.EvidenceRow]:
        plan_task(connection)
        write_now(connection, evidence.upsert, [row("1")])
        again: dict[str, Any] = {
            "received_at": later,
            "last_received_at": later,
            "effect": Effect.CONFIRMED,
            "copies": 2,
        }
        write_now(connection, evidence.upsert, [row("2", **again)])
        return evidence.of_task(connection, "task_1")

    (kept,) = await database.write(unit)

    assert (kept.id, kept.copies, kept.effect) == ("ev_1", 3, Effect.MOVED)
    assert (kept.received_at, kept.last_received_at) == (START, later)


async def test_a_forged_copy_that_arrives_first_does_not_hide_the_signed_original(database: Database) -> None:
    def unit(connection: Connection) -> list[evidence.EvidenceRow]:
        plan_task(connection)
        write_now(connection, evidence.upsert, [row("1", Verdict.FORGED, effect=Effect.REJECTED)])
        write_now(connection, evidence.upsert, [row("2", Verdict.SIGNED)])
        return evidence.of_task(connection, "task_1")

    kept = await database.write(unit)

    assert [(stored.verdict, stored.effect, stored.copies) for stored in kept] == [
        (Verdict.FORGED, Effect.REJECTED, 1),
        (Verdict.SIGNED, Effect.MOVED, 1),
    ]


async def test_another_body_witness_or_attempt_makes_a_row_of_its_own(database: Database) -> None:
    def unit(connection: Connection) -> int:
        plan_task(connection)
        plan_attempt(connection, "sub_2", "task_1", number=2)
        rows = [
            row("1"),
            row("2", body=b"[]"),
            row("3", witness=Witness.POLL),
            row("4", attempt_id="sub_2"),
        ]
        write_now(connection, evidence.upsert, rows)
        return len(evidence.of_task(connection, "task_1"))

    assert await database.write(unit) == 4


async def test_evidence_is_sorted_by_arrival(database: Database) -> None:
    def unit(connection: Connection) -> list[str]:
        plan_task(connection)
        plan_task(connection, "2")
        early = START - timedelta(seconds=1)
        write_now(connection, evidence.upsert, [row("1"), row("2", body=b"2", received_at=early)])
        write_now(connection, evidence.upsert, [row("3", attempt_id="sub_2")])
        return [stored.id for stored in evidence.of_task(connection, "task_1")]

    assert await database.write(unit) == ["ev_2", "ev_1"]


async def test_untrusted_callbacks_are_counted_by_attempt_and_verdict(database: Database) -> None:
    def unit(connection: Connection) -> list[int]:
        plan_task(connection)
        rows = [row(f"{number}", Verdict.FORGED, b"%d" % number) for number in range(3)]
        rows += [row("4", Verdict.UNPROVEN), row("5", Verdict.FORGED, attempt_id="sub_2")]
        write_now(connection, evidence.upsert, rows)
        pairs = [("sub_1", Verdict.FORGED), ("sub_1", Verdict.UNPROVEN), ("sub_none", Verdict.FORGED)]
        counts = evidence.count_callbacks(connection, pairs)
        return [counts[pair] for pair in pairs]

    assert await database.write(unit) == [3, 1, 0]
