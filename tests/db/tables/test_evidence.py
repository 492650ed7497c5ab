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
from tests.rows import START, plan_attempt, plan_task


def row(name: str, verdict: Verdict = Verdict.SIGNED, body: bytes = b"{}", **changes: Any) -> NewEvidence:
    """One callback of the attempt `sub_1` as a row."""
    given: dict[str, Any] = {
        "id": f"ev_{name}",
        "submission_id": "sub_1",
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
    return NewEvidence(**{**given, **changes})


async def test_the_bytes_are_kept_as_they_came(database: Database) -> None:
    body, headers = bytes(range(256)), {"x-odd": 'ü"\\'}

    def unit(connection: Connection) -> Any:
        plan_task(connection)
        evidence.keep(connection, [row("1", body=body, headers=json.dumps(headers))])
        return connection.execute(select(evidence.evidence.c.body, evidence.evidence.c.headers)).one()

    kept = await database.write(unit)

    assert (kept.body, kept.headers) == (body, headers)


async def test_a_copy_is_counted_and_what_it_did_first_stays(database: Database) -> None:
    later = START + timedelta(seconds=5)

    def unit(connection: Connection) -> list[evidence.EvidenceRow]:
        plan_task(connection)
        evidence.keep(connection, [row("1")])
        again: dict[str, Any] = {
            "received_at": later,
            "last_received_at": later,
            "effect": Effect.CONFIRMED,
            "copies": 2,
        }
        evidence.keep(connection, [row("2", **again)])
        return evidence.of_task(connection, "task_1")

    (kept,) = await database.write(unit)

    assert (kept.id, kept.copies, kept.effect) == ("ev_1", 3, Effect.MOVED)
    assert (kept.received_at, kept.last_received_at) == (START, later)


async def test_a_forged_copy_that_came_first_does_not_swallow_the_signed_original(database: Database) -> None:
    def unit(connection: Connection) -> list[evidence.EvidenceRow]:
        plan_task(connection)
        evidence.keep(connection, [row("1", Verdict.FORGED, effect=Effect.REJECTED)])
        evidence.keep(connection, [row("2", Verdict.SIGNED)])
        return evidence.of_task(connection, "task_1")

    kept = await database.write(unit)

    assert [(each.verdict, each.effect, each.copies) for each in kept] == [
        (Verdict.FORGED, Effect.REJECTED, 1),
        (Verdict.SIGNED, Effect.MOVED, 1),
    ]


async def test_other_bytes_another_witness_or_another_attempt_are_no_copy(database: Database) -> None:
    def unit(connection: Connection) -> int:
        plan_task(connection)
        plan_attempt(connection, "sub_2", "task_1", number=2)
        rows = [
            row("1"),
            row("2", body=b"[]"),
            row("3", witness=Witness.POLL),
            row("4", submission_id="sub_2"),
        ]
        evidence.keep(connection, rows)
        return len(evidence.of_task(connection, "task_1"))

    assert await database.write(unit) == 4


async def test_evidence_comes_in_the_order_it_arrived(database: Database) -> None:
    def unit(connection: Connection) -> list[str]:
        plan_task(connection)
        plan_task(connection, "2")
        early = START - timedelta(seconds=1)
        evidence.keep(connection, [row("1"), row("2", body=b"2", received_at=early)])
        evidence.keep(connection, [row("3", submission_id="sub_2")])
        return [each.id for each in evidence.of_task(connection, "task_1")]

    assert await database.write(unit) == ["ev_2", "ev_1"]


async def test_what_is_not_trusted_is_counted_by_verdict_and_by_attempt(database: Database) -> None:
    def unit(connection: Connection) -> list[int]:
        plan_task(connection)
        rows = [row(f"{number}", Verdict.FORGED, b"%d" % number) for number in range(3)]
        rows += [row("4", Verdict.UNPROVEN), row("5", Verdict.FORGED, submission_id="sub_2")]
        evidence.keep(connection, rows)
        wanted = [("sub_1", Verdict.FORGED), ("sub_1", Verdict.UNPROVEN), ("sub_none", Verdict.FORGED)]
        found = evidence.count_callbacks(connection, wanted)
        return [found[each] for each in wanted]

    assert await database.write(unit) == [3, 1, 0]
