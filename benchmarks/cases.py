"""The callback cases: each function takes a stage and returns figures by name."""

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
    """All connections busy: each round measures all servers in turn, and ratios are taken within a round."""
    rounds = [_round(stage) for _ in range(stage.rounds)]
    ratios = {
        "share_of_bare": [ours.rate / bare.rate for bare, _, _, ours in rounds],
        "share_of_hmac": [ours.rate / hmac.rate for _, hmac, _, ours in rounds],
        "times_naive": [ours.rate / naive.rate for _, _, naive, ours in rounds],
        "cpu_times_hmac": [ours.cpu_us / hmac.cpu_us for _, hmac, _, ours in rounds],
    }
    figures = {name: median(values) for name, values in ratios.items()}
    figures |= {f"{name}_worst": min(ratios[name]) for name in ("share_of_bare", "times_naive")}
    figures["generator_cpu_us"] = median([bare.own_cpu_us for bare, *_ in rounds])
    for index, name in enumerate(("bare", "hmac", "naive", "ours")):
        outcomes = [round_[index] for round_ in rounds]
        figures[f"{name}_rate"] = median([outcome.rate for outcome in outcomes])
        figures[f"{name}_cpu_us"] = median([outcome.cpu_us for outcome in outcomes])
        figures[f"{name}_p99_ms"] = median([outcome.ms(0.99) for outcome in outcomes])
    return figures


def _round(stage: Stage) -> tuple[Outcome, Outcome, Outcome, Outcome]:
    return stage.beside(stage.bare), stage.beside(stage.hmac), stage.beside(stage.naive), stage.full_load()


def rate_of(rate: int) -> Case:
    """Return the case that sends this many callbacks per second."""

    def at_rate(stage: Stage) -> Figures:
        outcome = stage.at_rate(rate, max(stage.seconds, _shortest(stage)))
        p50, p99 = f"p50_ms_at_{rate}", f"p99_ms_at_{rate}"
        return {p50: outcome.ms(0.5), p99: outcome.ms(0.99), f"unanswered_at_{rate}": outcome.counts[0]}

    return at_rate


def _shortest(stage: Stage) -> float:
    """Return the shortest duration in seconds for a 99th percentile, which needs more arrivals than a mean."""
    return 2 * stage.seconds


def lone(stage: Stage) -> Figures:
    """One callback at a time: there is no queueing, and no transaction is shared."""
    callbacks = stage.ours.seed(int(stage.seconds * min(2000, stage.pace)) + 50)
    ours = stage.deliver(signed(callbacks), stage.seconds, connections=1)
    bare = stage.beside(stage.bare, stage.seconds / 3, connections=1)
    return {"lone_p50_ms": ours.ms(0.5), "lone_p99_ms": ours.ms(0.99), "bare_lone_p50_ms": bare.ms(0.5)}


def fresh(stage: Stage) -> Figures:
    """A new connection for each callback, as from a provider without keep-alive."""
    bare, ours = stage.beside(stage.bare, fresh=True), stage.full_load(fresh=True)
    return {"fresh_share_of_bare": ours.rate / bare.rate, "fresh_rate": ours.rate, "fresh_p99_ms": ours.ms(0.99)}


def forged(stage: Stage) -> Figures:
    """Every tenth callback has a valid address and a wrong signature."""

    def requests(number: int, callback: Callback) -> list[Sent]:
        return [(callback, callback.forged() if number % _FORGED_EVERY == 0 else callback.signed())]

    outcome = _mixture(stage, requests)
    return {"forged_rate": outcome.rate, "forged_refused": outcome.counts[401]}


def doubled(stage: Stage) -> Figures:
    """Every fifth callback is sent twice; the first may still be in progress when the second arrives."""

    def requests(number: int, callback: Callback) -> list[Sent]:
        return [(callback, callback.signed())] * (2 if number % _DOUBLED_EVERY == 0 else 1)

    return {"doubled_rate": _mixture(stage, requests).rate}


def _mixture(stage: Stage, requests: Callable[[int, Callback], list[Sent]]) -> Outcome:
    callbacks = stage.ours.seed(int(stage.pace * 1.5 * stage.seconds) + 500)
    mixed = [sent for number, callback in enumerate(callbacks) for sent in requests(number, callback)]
    return stage.deliver(mixed, stage.seconds)


CASES: Mapping[str, Case] = {
    "closed": closed,
    **{f"rate-{rate}": rate_of(rate) for rate in _RATES},
    "lone": lone,
    "fresh": fresh,
    "forged": forged,
    "doubled": doubled,
}
QUICK = ("closed", "rate-1000", "lone")
