"""When requests are due that nobody coordinates: a Poisson process, the same for the same seed. Pure."""

import random  # noqa: TID251 - every run sees the same arrivals, so that two runs differ by what they measure


def poisson(rate: float, seconds: float, seed: int = 1) -> list[float]:
    """Seconds from the start at which each of about `rate * seconds` requests is due, in order."""
    rng = random.Random(seed)  # noqa: S311 - spreads load, guards nothing
    due: list[float] = []
    at = rng.expovariate(rate)
    while at < seconds:
        due.append(at)
        at += rng.expovariate(rate)
    return due
