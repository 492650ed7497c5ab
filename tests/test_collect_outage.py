"""An outage of the store delays collecting and loses nothing: the bytes wait in the spool."""

from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

from app.collect import store_spooled
from app.db.tables import spooled_results
from app.errors import StoreUnavailable
from app.resources import Resources
from app.store import FolderStore
from app.worker import loop
from tests.calling import Caller, done, submitted
from tests.faults import Trip, failing_transaction
from tests.pictures import large_profile
from tests.proof.crash_points import AFTER_COMMIT, BEFORE_COMMIT, Fuse, FusedDatabase, FusedStore, Point, Stop
from tests.world import World

LONG = 2 * 3600  # seconds: many times a link's life
OUTAGE = "the image store cannot be written: No space left on device"


class Unsteady(FolderStore):
    """A store that fails while it is down, and counts its calls."""

    down = True
    asked = 0
    error: Exception = StoreUnavailable(OUTAGE)

    async def put(self, key: str, source: IO[bytes]) -> None:
        self.asked += 1
        if self.down:
            raise self.error
        await super().put(key, source)


class LastBeforeTheOutage(FolderStore):
    """A store after whose puts the next transaction of the database fails."""

    trip: Trip

    async def put(self, key: str, source: IO[bytes]) -> None:
        await super().put(key, source)
        self.trip.fail_next()


@pytest.fixture
def store(tmp_path: Path) -> Unsteady:
    return Unsteady(tmp_path / "images")


async def ready(world: World) -> Caller:
    """A ready task whose result has not been collected."""
    caller = await submitted(world)
    await done(world)
    await caller.call(caller.ready())
    return caller


async def kept(world: World, store: Unsteady) -> Caller:
    """A task whose image is in the spool of the world's instance."""
    world.use = replace(world.use, store=store)
    caller = await ready(world)
    await world.work()
    return caller


def machine(world: World, name: str, store: FolderStore) -> Resources:
    """Another instance with the same database and store, and its own disk."""
    folder = world.use.scratch / name
    folder.mkdir()
    return replace(world.use, scratch=folder, store=store)


def spool(use: Resources) -> list[Path]:
    return sorted((use.scratch / "aside").glob("*"))


async def outcomes(world: World, caller: Caller) -> list[str]:
    return [entry["outcome"] for entry in await world.timeline(caller.task_id, "download")]


async def status(world: World, caller: Caller) -> str:
    task = await world.task(caller.task_id)
    return str(task["failure"]["code"] if task["failure"] else task["status"])


async def is_whole(world: World, caller: Caller) -> bool:
    """Return whether the task is stored with exactly the provider's bytes."""
    task = await world.task(caller.task_id)
    return bool(task["image"] and task["image"]["sha256"] == world.ledger()["tasks"][0]["sha256"])


async def test_a_store_outage_longer_than_the_link_lifetime_loses_nothing(each_world: World, store: Unsteady) -> None:
    caller = await kept(each_world, store)
    await each_world.go_on(LONG, 600)
    before = await status(each_world, caller)
    store.down = False
    await each_world.go_on(160, 40)

    assert before == "ready"
    assert await is_whole(each_world, caller)
    assert await outcomes(each_world, caller) == ["kept_aside", "stored"]
    assert spool(each_world.use) == []


async def test_a_database_outage_after_the_image_was_stored_needs_no_second_download(each_world: World) -> None:
    caller, alive, trip = await ready(each_world), each_world.use, Trip()
    store = LastBeforeTheOutage(alive.scratch / "images")
    store.trip = trip
    each_world.use = replace(alive, store=store)
    with failing_transaction(alive.db, trip):
        await each_world.work()
    each_world.use = alive
    each_world.clock.advance(LONG)
    await each_world.work()

    assert await is_whole(each_world, caller)
    assert await outcomes(each_world, caller) == ["stored"]
    assert each_world.ledger()["tasks"][0]["downloads"] == 1
    assert spool(each_world.use) == []


@pytest.mark.parametrize("error", [RuntimeError("rust future panicked"), ValueError("http://key@bucket"), KeyError()])
async def test_whatever_a_put_raises_is_an_outage(world: World, store: Unsteady, error: Exception) -> None:
    store.error = error
    caller = await kept(world, store)
    await world.go_on(LONG, 600)
    ((entry,), before) = await world.timeline(caller.task_id, "download"), await status(world, caller)
    store.down = False
    await world.go_on(160, 40)

    assert before == "ready"
    assert entry["detail"].endswith(f": the image store failed: {type(error).__name__}")
    assert await is_whole(world, caller)


async def test_an_image_that_cannot_be_verified_is_spooled_and_stored_like_any_other(
    each_world: World, store: Unsteady
) -> None:
    each_world.twin.gallery.file = large_profile()
    caller = await kept(each_world, store)
    await each_world.go_on(LONG, 600)
    store.down = False
    await each_world.go_on(160, 40)
    image = (await each_world.task(caller.task_id))["image"]

    assert await is_whole(each_world, caller)
    assert image["unverified_image"].startswith("its pixels are complete")
    assert spool(each_world.use) == []


async def test_the_link_is_not_requested_again_for_a_spooled_image(world: World, store: Unsteady) -> None:
    await kept(world, store)
    await world.go_on(600, 60)

    assert world.ledger()["tasks"][0]["downloads"] == 1


async def test_the_timeline_shows_which_instance_spools_the_image_and_why(each_world: World, store: Unsteady) -> None:
    caller = await kept(each_world, store)
    name = (each_world.use.scratch / "instance_id").read_text()
    ((entry,), notes) = (
        await each_world.timeline(caller.task_id, "download"),
        (await each_world.api.get("/readyz")).json()["notes"],
    )

    assert (entry["outcome"], entry["detail"]) == ("kept_aside", f"spooled on {name}: {OUTAGE}")
    assert len(notes) == 1
    assert f"instance_id {name} spools images until the store accepts them: 1, the oldest since 20" in notes[0]


async def test_tries_become_rarer_and_add_nothing_to_the_timeline(world: World, store: Unsteady) -> None:
    caller = await kept(world, store)
    await world.go_on(1200, 15)

    assert 1200 / 165 <= store.asked <= 1200 / 120 + 4
    assert await outcomes(world, caller) == ["kept_aside"]


async def test_a_store_that_has_just_failed_is_not_called_for_the_next_image(world: World, store: Unsteady) -> None:
    await kept(world, store)
    second = await ready(world)
    await world.work()

    assert store.asked == 1
    assert await outcomes(world, second) == ["kept_aside"]
    assert len(spool(world.use)) == 2


async def test_a_restarted_service_finds_its_spooled_images(each_world: World, store: Unsteady, tmp_path: Path) -> None:
    caller = await kept(each_world, store)
    each_world.clock.advance(LONG)
    each_world.use = replace(each_world.use, store=FolderStore(tmp_path / "images"))
    await loop.start(each_world.use)
    await each_world.work()

    assert await is_whole(each_world, caller)


async def test_all_spooled_images_are_stored_at_once_when_the_store_is_back(world: World, store: Unsteady) -> None:
    callers = [await kept(world, store) for _ in range(3)]
    world.clock.advance(60)
    store.down = False
    await store_spooled(world.use)

    assert [await status(world, caller) for caller in callers] == ["stored"] * 3
    assert spool(world.use) == []


async def test_one_round_calls_an_unavailable_store_once(world: World, store: Unsteady) -> None:
    for _ in range(3):
        await kept(world, store)
    world.clock.advance(60)
    await store_spooled(world.use)

    assert store.asked == 2


async def test_another_instance_downloads_the_image_while_its_link_is_valid(each_world: World, store: Unsteady) -> None:
    caller = await kept(each_world, store)
    keeper = each_world.use
    store.down = False
    each_world.use = machine(each_world, "other", store)
    await each_world.go_on(60, 5)
    stored, left = await is_whole(each_world, caller), len(spool(keeper))
    await store_spooled(keeper)

    assert (stored, left) == (True, 1)
    assert spool(keeper) == []


async def test_after_the_link_has_expired_the_task_waits_for_the_instance_with_the_spooled_image(
    each_world: World, store: Unsteady
) -> None:
    caller = await kept(each_world, store)
    keeper = each_world.use
    store.down = False
    each_world.clock.advance(900)
    each_world.use = machine(each_world, "other", store)
    await each_world.go_on(LONG, 600)
    before = (await status(each_world, caller), await outcomes(each_world, caller))
    await store_spooled(keeper)

    assert before == ("ready", ["kept_aside"])
    assert await is_whole(each_world, caller)


async def test_two_instances_may_spool_the_same_image(each_world: World, store: Unsteady) -> None:
    caller = await kept(each_world, store)
    first, second = each_world.use, machine(each_world, "other", store)
    each_world.use = second
    await each_world.go_on(60, 5)
    spool(first)[0].unlink()
    each_world.use = first
    await each_world.go_on(1800, 150)
    before = await status(each_world, caller)
    store.down = False
    each_world.clock.advance(60)
    await store_spooled(second)

    assert before == "ready"
    assert await is_whole(each_world, caller)


@pytest.mark.parametrize(
    ("damage", "life", "end"),
    [("gone", 20, "stored"), ("changed", 20, "stored"), ("changed", 900, "asset_lost")],
    ids=["gone", "changed", "changed and the link dead"],
)
async def test_a_damaged_spooled_image_does_not_count(
    each_world: World, store: Unsteady, damage: str, life: float, end: str
) -> None:
    caller = await kept(each_world, store)
    (file,) = spool(each_world.use)
    file.unlink() if damage == "gone" else file.write_bytes(b"not what it was")
    store.down = False
    each_world.clock.advance(life)
    await each_world.go_on(200, 40)

    assert "failed" in await outcomes(each_world, caller)
    assert await status(each_world, caller) == end
    assert spool(each_world.use) == []


async def test_if_the_spool_cannot_be_written_the_link_is_tried_again(world: World, store: Unsteady) -> None:
    (world.use.scratch / "aside").write_text("a file where the folder would be")
    caller = await kept(world, store)
    ((entry,), before) = await world.timeline(caller.task_id, "download"), await status(world, caller)
    store.down = False
    await world.go_on(60, 5)

    assert before == "ready"
    assert entry["detail"] == f"{OUTAGE}; the spool cannot be written either: Not a directory"
    assert await is_whole(world, caller)


async def test_the_image_of_a_cancelled_task_is_spooled_too(world: World, store: Unsteady) -> None:
    caller = await kept(world, store)
    await world.api.post(f"/v1/tasks/{caller.task_id}/cancel")
    await world.go_on(LONG, 600)
    store.down = False
    await world.go_on(160, 40)

    assert await is_whole(world, caller)
    assert (await world.task(caller.task_id))["unwanted"]


async def test_a_cancelled_task_waits_at_most_an_hour_for_an_instance(each_world: World, store: Unsteady) -> None:
    caller = await kept(each_world, store)
    each_world.clock.advance(900)
    each_world.use = machine(each_world, "other", store)
    await each_world.go_on(LONG, 1200)
    before = await status(each_world, caller)
    await each_world.api.post(f"/v1/tasks/{caller.task_id}/cancel")
    await each_world.go_on(3600 + 900, 600)

    assert before == "ready"
    assert await status(each_world, caller) == "asset_lost"
    assert await each_world.use.db.read(spooled_results.spool_holders) == []


async def test_a_new_attempt_never_gets_the_bytes_of_the_one_before(world: World, store: Unsteady) -> None:
    caller = await kept(world, store)
    keeper, other = world.use, machine(world, "other", store)
    await world.api.post(f"/v1/tasks/{caller.task_id}/cancel")
    world.clock.advance(LONG)
    world.use = other
    await world.go_on(600, 60)
    lost = await status(world, caller)
    store.down = False
    await world.api.post(f"/v1/tasks/{caller.task_id}/resubmit")
    await world.work()
    await store_spooled(keeper)
    await world.go_on(40, 5)

    assert lost == "asset_lost"
    assert spool(keeper) == []
    assert (await world.task(caller.task_id))["image"]["sha256"] == world.ledger()["tasks"][1]["sha256"]


async def test_a_spooled_file_of_an_unknown_attempt_is_not_deleted(world: World) -> None:
    folder = world.use.scratch / "aside"
    folder.mkdir()
    (folder / f"sub_of_another_database.{'0' * 64}").write_bytes(b"an image")
    await store_spooled(world.use)

    assert len(spool(world.use)) == 1


KEEPING = ["INSERT INTO kept_aside", BEFORE_COMMIT, AFTER_COMMIT]
STORING = [
    "file: before it is stored",
    "file: after it is stored",
    "DELETE FROM kept_aside",
    BEFORE_COMMIT,
    AFTER_COMMIT,
]


class FusedUnsteady(FusedStore, Unsteady):
    """A store that is down, or that has a crash point before and after each put."""


def fused(world: World, store: FusedUnsteady, fuse: Fuse) -> Resources:
    """A run of the service that ends when the fuse blows."""
    store.fuse = fuse
    return replace(world.use, db=FusedDatabase(world.use.db, fuse), store=store)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("down", "place"),
    [*((True, place) for place in KEEPING), *((False, place) for place in STORING)],
)
async def test_a_process_killed_while_it_spools_or_stores_an_image_loses_nothing(
    world: World, tmp_path: Path, down: bool, place: str
) -> None:
    store = FusedUnsteady(tmp_path / "images")
    store.fuse, alive = Fuse(armed=False), world.use
    caller = await ready(world)
    if not down:
        world.use = replace(alive, store=store)
        await world.work()
        world.clock.advance(60)
    store.down = down
    world.use = fused(world, store, Fuse(at=Point("collect", place, 1)))
    with pytest.raises(Stop):
        await world.work()
    left = len(spool(world.use))
    store.down, store.fuse = False, Fuse(armed=False)
    world.use = replace(alive, store=store)
    world.clock.advance(LONG)
    await loop.start(world.use)
    await world.work()
    await store_spooled(world.use)

    assert left == 1
    assert await is_whole(world, caller)
    assert spool(world.use) == []
    assert world.ledger()["tasks"][0]["downloads"] == 1
