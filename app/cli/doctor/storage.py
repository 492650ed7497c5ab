"""For how long data is kept, how much it takes, how fast it grows, and when the disk will be full at that rate."""

from datetime import datetime, timedelta
from pathlib import Path

from app.db import Connection
from app.db.engine.database import Database
from app.db.engine.sqlite import file_of
from app.db.queries import storage
from app.db.queries.storage import Amount
from app.rules.growth import Stored, full_in
from app.rules.retention import DataClass, Retention
from app.settings import Settings
from app.store.disk_reserve import free_space
from app.web.findings import Finding
from app.wiring import database_url, retention, store_folder

_LATELY, _DAY = timedelta(days=7), timedelta(days=1)
_SOON = timedelta(days=30)
_NAMES = {
    DataClass.IMAGES: "images",
    DataClass.INPUTS: "input images",
    DataClass.EVIDENCE: "evidence and deliveries",
    DataClass.TASKS: "tasks",
}


async def read(settings: Settings, database: Database, now: datetime) -> list[Finding]:
    """Return the retentions of the settings, what is stored, and a warning if a disk will be full within 30 days."""
    kept = retention(settings)
    size, total, lately, days = await database.read(_measure, now)
    stored = {
        "images": _of(total.images, lately.images, days, kept.images, kept.tasks),
        "input images": _of(total.inputs, lately.inputs, days, kept.inputs, kept.tasks),
        "the database": Stored(size, size / max(total.tasks, 1) * lately.tasks / days, kept.tasks),
    }
    takes = ", ".join(f"{name}: {_bytes(kind.size)}" for name, kind in stored.items())
    grows = ", ".join(_bytes(kind.per_day) for kind in stored.values())
    findings = [
        Finding("retention", _retentions(kept)),
        Finding("storage", f"{takes}; at the rate of the last days they grow by {grows} a day"),
    ]
    return findings + [_disk(*volume) for volume in _volumes(settings, stored)]


def _measure(connection: Connection, now: datetime) -> tuple[int, Amount, Amount, float]:
    """Return the size of the database, all that is stored, what was stored lately, and in how many days."""
    oldest = storage.oldest(connection) or now
    age = min(max(now - oldest, _DAY), _LATELY)
    total, lately = storage.amount(connection), storage.amount(connection, now - age)
    return storage.database_size(connection), total, lately, age / _DAY


def _of(size: int, lately: int, days: float, own: timedelta | None, of_task: timedelta | None) -> Stored:
    limits = [limit for limit in (own, of_task) if limit is not None]
    return Stored(size, lately / days, min(limits, default=None))


def _volumes(settings: Settings, stored: dict[str, Stored]) -> list[tuple[str, int, list[Stored]]]:
    """Return the disks of this machine that tasks fill: their names, the free bytes, and what lies on them."""
    places: list[tuple[str, Path, list[Stored]]] = []
    folder = store_folder(settings)
    if folder is not None:
        places.append(("the image store", folder, [stored["images"], stored["input images"]]))
    if settings.embedded:
        places.append(("the database", Path(file_of(database_url(settings))).parent, [stored["the database"]]))
    by_device: dict[int, tuple[str, int, list[Stored]]] = {}
    for name, place, kinds in places:
        found = free_space(place)
        if found is None:
            continue
        device, free = found
        names, _, before = by_device.get(device, ("", 0, []))
        by_device[device] = (f"{names} and {name}" if names else name, free, before + kinds)
    return list(by_device.values())


def _disk(name: str, free: int, stored: list[Stored]) -> Finding:
    left = f"the disk of {name} has {_bytes(free)} left"
    end = full_in(free, stored)
    if end is None:
        return Finding("disk space", f"{left} and will not be full at this rate")
    days = max(1, round(end / _DAY))
    text = f"{left} and will be full in about {days} {'day' if days == 1 else 'days'} at this rate"
    if end >= _SOON:
        return Finding("disk space", text)
    remedy = 'make room, or set a retention: see "Retention" in docs/operating.md'
    return Finding("disk space", f"{text}: {remedy}", warning=True)


def _retentions(kept: Retention) -> str:
    parts = []
    for data in DataClass:
        period = kept.of(data)
        parts.append(f"{_NAMES[data]} {'without limit' if period is None else f'for {period.days} days'}")
    return f"{', '.join(parts)} after the end of a task, unless its application has its own"


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004 - the next unit
            return f"{size:.0f} {unit}" if unit in {"bytes", "kB"} else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
