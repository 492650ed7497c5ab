"""What is measured of callbacks, one function for each case: a stage in, figures by name out."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from benchmarks.drive import Outcome
from benchmarks.figures import median
from benchmarks.seed import Callback
from benchmarks.stage import Sent, Stage, signed

Figures: TypeAlias = dict[str, float]
Case: TypeAlias = Callable[[Stage], Figures]

_RATES = (200, 500, 1000, 2000)
_FORGED_EVERY = 10
_DOUBLED_EVERY = 5


def closed(stage: Stage) -> Figures:
    """All connections busy: rounds of each server in turn, and the ratios within each round."""
    rounds = [_round(stage) for _ in range(stage.rounds)]
    ratios = {
        "share_of_bare": [ours.rate / bare.rate for bare, _, _, ours in rounds],
        "share_of_hmac": [ours.rate / hmac.rate for _, hmac, _, ours in rounds],
        "times_naive": [ours.rate / naive.rate for _, _, naive, ours in rounds],
        "cpu_times_hmac": [ours.cpu_us / hmac.cpu_us for _, hmac, _, ours in rounds],
    }
    figures = {name: median(values) for name, values in ratios.items()}
    figures |= {f"{name}_worst": min(ratios[name]) for name in ("share_of_bare", "times_naive")}
    figures["generator_cpu_us"] = median([each.own_cpu_us for each, *_ in rounds])
    for place, name in enumerate(("bare", "hmac", "naive", "ours")):
        outcomes = [each[place] for each in rounds]
        figures[f"{name}_rate"] = median([each.rate for each in outcomes])
        figures[f"{name}_cpu_us"] = median([each.cpu_us for each in outcomes])
        figures[f"{name}_p99_ms"] = median([each.ms(0.99) for each in outcomes])
    return figures


def _round(stage: Stage) -> tuple[Outcome, Outcome, Outcome, Outcome]:
    return stage.beside(stage.bare), stage.beside(stage.hmac), stage.beside(stage.naive), stage.full_load()


def rate_of(rate: int) -> Case:
    """The case of so many callbacks a second."""

    def at_rate(stage: Stage) -> Figures:
        outcome = stage.at_rate(rate, max(stage.seconds, _shortest(stage)))
        p50, p99 = f"p50_ms_at_{rate}", f"p99_ms_at_{rate}"
        return {p50: outcome.ms(0.5), p99: outcome.ms(0.99), f"unanswered_at_{rate}": outcome.counts[0]}

    return at_rate


def _shortest(stage: Stage) -> float:
    """A 99th percentile wants more arrivals than a mean."""
    return 2 * stage.seconds


def lone(stage: Stage) -> Figures:
    """One callback at a time: nothing is waited for, so nothing is shared either."""
    callbacks = stage.ours.seed(int(stage.seconds * min(2000, stage.pace)) + 50)
    ours = stage.deliver(signed(callbacks), stage.seconds, connections=1)
    bare = stage.beside(stage.bare, stage.seconds / 3, connections=1)
    return {"lone_p50_ms": ours.ms(0.5), "lone_p99_ms": ours.ms(0.99), "bare_lone_p50_ms": bare.ms(0.5)}


def fresh(stage: Stage) -> Figures:
    """A new connection for each callback, as from a provider that keeps none."""
    bare, ours = stage.beside(stage.bare, fresh=True), stage.full_load(fresh=True)
    return {"fresh_share_of_bare": ours.rate / bare.rate, "fresh_rate": ours.rate, "fresh_p99_ms": ours.ms(0.99)}


def forged(stage: Stage) -> Figures:
    """Each tenth has a wrong signature at an address that exists."""

    def mixed(number: int, each: Callback) -> list[Sent]:
        return [(each, each.forged() if number % _FORGED_EVERY == 0 else each.signed())]

    outcome = _mixture(stage, mixed)
    return {"forged_rate": outcome.rate, "forged_refused": outcome.counts[401]}


def doubled(stage: Stage) -> Figures:
    """Each fifth comes twice, the second time while the first may still be in hand."""

    def mixed(number: int, each: Callback) -> list[Sent]:
        return [(each, each.signed())] * (2 if number % _DOUBLED_EVERY == 0 else 1)

    return {"doubled_rate": _mixture(stage, mixed).rate}


def _mixture(stage: Stage, mixed: Callable[[int, Callback], list[Sent]]) -> Outcome:
    callbacks = stage.ours.seed(int(stage.pace * 1.5 * stage.seconds) + 500)
    return stage.deliver([sent for number, each in enumerate(callbacks) for sent in mixed(number, each)], stage.seconds)


CASES: Mapping[str, Case] = {
    "closed": closed,
    **{f"rate-{rate}": rate_of(rate) for rate in _RATES},
    "lone": lone,
    "fresh": fresh,
    "forged": forged,
    "doubled": doubled,
}
QUICK = ("closed", "rate-1000", "lone")
