"""Arrival times of independent requests: a Poisson process, reproducible by its seed. Pure."""

import random  # noqa: TID251 - every run has the same arrivals, so two runs differ only by what they measure


def poisson(rate: float, seconds: float, seed: int = 1) -> list[float]:
    """Return the due times of about `rate * seconds` requests, in seconds from the start, in order."""
    rng = random.Random(seed)  # noqa: S311 - spreads load, not used for security
    due: list[float] = []
    at = rng.expovariate(rate)
    while at < seconds:
        due.append(at)
        at += rng.expovariate(rate)
    return due
