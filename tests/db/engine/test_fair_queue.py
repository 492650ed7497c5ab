import pytest

from app.db.engine.fair_queue import JOBS, SERVICE, FairQueue, owner, service_task


def filled(items: dict[str, int]) -> FairQueue[str]:
    """A queue with this number of items of each owner: a1, a2 and so on."""
    queue = FairQueue[str]()
    for whose, count in items.items():
        for number in range(1, count + 1):
            queue.add(f"{whose}{number}", whose)
    return queue


def taken(queue: FairQueue[str], count: int | None = None) -> list[str]:
    return [queue.take()[0] for _ in range(len(queue) if count is None else count)]


def test_owners_take_turns() -> None:
    queue = filled({"a": 4, "b": 2, "c": 1})

    assert taken(queue) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]
    assert len(queue) == 0


def test_an_owner_that_had_nothing_to_do_is_next() -> None:
    queue = filled({"a": 9, "b": 9})
    before = taken(queue, 3)
    queue.add("c1", "c")
    queue.add("c2", "c")

    assert before == ["a1", "b1", "a2"]
    assert taken(queue, 4) == ["c1", "b2", "a3", "c2"]


def test_an_owner_that_adds_an_item_after_each_turn_has_no_more_turns_than_others() -> None:
    queue = filled({"a": 9, "b": 9})
    order = []
    for number in range(1, 7):
        queue.add(f"c{number}", "c")
        order += taken(queue, 1)
    order += taken(queue, 3)

    assert order == ["a1", "b1", "c1", "a2", "b2", "c2", "a3", "b3", "c3"]


def test_an_item_that_is_put_back_is_the_next_of_its_owner_and_has_its_turn() -> None:
    queue = filled({"a": 2, "b": 1})
    queue.put_back(*queue.take())

    assert taken(queue) == ["b1", "a1", "a2"]


def test_the_only_item_of_an_owner_can_be_put_back_after_others_were_taken() -> None:
    queue = filled({"a": 1, "b": 3})
    items = [queue.take() for _ in range(4)]
    for item, whose in reversed(items):
        queue.put_back(item, whose)

    assert taken(queue) == ["a1", "b1", "b2", "b3"]


@pytest.mark.parametrize("own", [JOBS, SERVICE])
def test_each_third_turn_is_for_the_work_of_the_service_however_many_applications_wait(own: str) -> None:
    queue = filled({"a": 2, "b": 2, "c": 2, "d": 2, "e": 2, own: 3})

    assert [name.rstrip("123") for name in taken(queue, 9)] == ["a", "b", own, "c", "d", own, "e", "a", own]
    assert sorted(taken(queue)) == ["b2", "c2", "d2", "e2"]


def test_the_work_of_the_service_that_comes_after_many_applications_is_next() -> None:
    queue = filled({"a": 3, "b": 3})
    before = taken(queue, 4)
    queue.add("step", JOBS)
    queue.add("claim", SERVICE)

    assert before == ["a1", "b1", "a2", "b2"]
    assert taken(queue) == ["claim", "step", "a3", "b3"]


def test_an_item_that_is_removed_uses_no_turn() -> None:
    queue = filled({"a": 3, "b": 2})
    queue.remove("a1", "a")
    queue.remove("a1", "a")
    queue.remove("c1", "c")

    assert len(queue) == 4
    assert taken(queue) == ["a2", "b1", "a3", "b2"]


def test_the_two_kinds_of_own_work_take_turns_at_the_third_turn() -> None:
    queue = filled({"a": 9, "b": 9, "c": 9, "d": 9, SERVICE: 9, JOBS: 9})

    own = [name.rstrip("123456789") for name in taken(queue, 18)][2::3]

    assert own.count(SERVICE) == own.count(JOBS) == 3


def test_an_item_is_put_back_before_what_its_owner_has_added_since() -> None:
    queue = filled({"a": 1, "b": 1})
    items = [queue.take() for _ in range(2)]
    queue.add("c1", "c")
    queue.take()
    queue.add("a2", "a")
    for item, whose in reversed(items):
        queue.put_back(item, whose)

    assert len(queue) == 3
    assert taken(queue) == ["a1", "b1", "a2"]


async def test_a_task_of_the_service_that_a_request_starts_has_the_turns_of_the_service() -> None:
    async def whose() -> str:
        return owner.get()

    owner.set("app_shop")

    assert await service_task(whose()) == SERVICE
    assert owner.get() == "app_shop"
