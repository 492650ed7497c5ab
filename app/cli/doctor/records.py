"""What the stored tasks, jobs and keys show about the installation."""

from collections import Counter
from collections.abc import Iterable

from app import clock, jobs
from app.cli.doctor import storage
from app.db.engine.server_clock import follow_once
from app.db.queries import webhook_secrets
from app.db.tables import attempts
from app.security.keyring import KeyRing, sealing_key_id
from app.settings import Settings
from app.web.findings import Finding
from app.wiring import (
    key_ring,
    open_configured_database,
    service_budget,
)
from app.worker import readiness_notes


async def read(settings: Settings) -> list[Finding]:
    """Return what the stored tasks, jobs and keys show about the installation."""
    now = clock.FollowingClock()
    async with open_configured_database(settings) as database:
        await follow_once(database, now)
        notes = await database.read(
            readiness_notes.read,
            now(),
            callbacks_expected=settings.public_url is not None,
            clock_ahead=now.ahead,
            budget=service_budget(settings),
        )
        dead_letters = await database.read(jobs.count_dead_letters)
        in_flight = Counter(await database.read(attempts.count_in_flight_by_signing_key))
        of_keys = Counter(map(sealing_key_id, await database.read(webhook_secrets.of_owners)))
        of_tasks = Counter(map(sealing_key_id, await database.read(webhook_secrets.of_tasks)))
        stored = await storage.read(settings, database, now())
    findings = [
        Finding(note.subject, f"{note.text}: {note.details}" if note.details else note.text, unhealthy=note.unhealthy)
        for note in notes
    ]
    findings += stored
    if dead_letters:
        text = f"{_counted(dead_letters, 'dead letter')}; `fluxhook jobs` lists them"
        findings.append(Finding("jobs", text, unhealthy=True))
    if in_flight or of_keys or of_tasks or len(settings.secret_keys) > 1:
        findings.append(_secret_keys(key_ring(settings), in_flight, of_keys, of_tasks))
    return findings


def _secret_keys(ring: KeyRing, *uses: Counter[str]) -> Finding:
    """Report the uses of each key of the ring, or of keys that were removed from it.

    `uses` count tasks at the provider, webhook secrets of API keys and applications, and those of tasks, each by the
    ID of the key.
    """

    def needed(names: Iterable[str]) -> str:
        at_provider, of_keys, of_tasks = (sum(counts[name] for name in names) for counts in uses)
        secrets = f"{_counted(of_keys, 'webhook secret')} of API keys or applications and {of_tasks} of tasks"
        return f"{_counted(at_provider, 'task')} at the provider, {secrets}"

    removed = {name for counts in uses for name in counts} - set(ring)
    if removed:
        text = f"a removed key is needed by {needed(removed)}: these callbacks are refused, these webhooks are not sent"
        return Finding("secret keys", text, unhealthy=True)
    by_key = (f"key {number} is needed by {needed([name])}" for number, name in enumerate(ring, 1))
    return Finding("secret keys", "; ".join(by_key))


def _counted(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"
