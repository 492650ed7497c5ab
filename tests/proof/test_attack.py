"""Short forms of `make attack`, and that its judge names what is broken."""

from collections import Counter
from pathlib import Path

import pytest

from tests.proof.attack import Attack, Figures, attack
from tests.proof.attack_mutations import KINDS

pytestmark = pytest.mark.proof


async def test_no_mutated_callback_is_accepted(tmp_path: Path) -> None:
    figures = await attack(Attack(count=4000, seed=21), tmp_path)

    assert (figures.sent, figures.broken) == (4000, [])
    assert figures.statuses[401] > 2000


@pytest.mark.usefixtures("postgres")  # skips where no server can be started
async def test_no_mutated_callback_is_accepted_on_postgresql(tmp_path: Path) -> None:
    figures = await attack(Attack(count=2500, seed=22, database="postgres"), tmp_path)

    assert (figures.sent, figures.broken) == (2500, [])


@pytest.mark.parametrize(
    ("figures", "broken"),
    [
        (Figures(kinds=Counter(KINDS)), []),
        (Figures(accepted=1), ["no mutated callback is accepted"]),
        (Figures(moved=1), ["no mutated callback moves a task"]),
        (Figures(statuses=Counter({401: 5, 503: 1})), ["no answer is a server error"]),
        (Figures(server_errors=1), ["no answer is a server error"]),
        (Figures(complaints=Counter({"unexpected": 1})), ["the service logs no error"]),
        (Figures(growth_mb=100.0), ["memory grows by less than 64 MB"]),
        (Figures(sent=10_000), ["each kind of mutation is sent"]),
    ],
)
def test_each_broken_promise_of_an_attack_is_named(figures: Figures, broken: list[str]) -> None:
    assert figures.broken == broken
