"""How hard the property tests search. Set here for the whole suite, so that no test depends on a fast machine."""

import os

from hypothesis import HealthCheck, settings

_NORMAL, _PROVE, _COLD = "normal", "prove", "cold"
_EXAMPLES = 50
_FEW = 5  # in `make cold`, where the first ones are what matters
_MORE = 4  # times as many examples in `make prove`


def install() -> None:
    """Register the profiles and load the one that HYPOTHESIS_PROFILE names."""
    settings.register_profile(
        _NORMAL,
        max_examples=_EXAMPLES,
        # The first draw of a strategy may build tables for seconds: on a cold machine that says nothing about a test.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        derandomize="CI" in os.environ,
    )
    settings.register_profile(_PROVE, settings.get_profile(_NORMAL), max_examples=_EXAMPLES * _MORE, derandomize=False)
    settings.register_profile(_COLD, settings.get_profile(_NORMAL), max_examples=_FEW)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", _NORMAL))


def examples(count: int) -> settings:
    """For a test whose examples are expensive, or too cheap to stop early: so many, and more in `make prove`."""
    is_prove = os.environ.get("HYPOTHESIS_PROFILE") == _PROVE
    return settings(max_examples=count * _MORE if is_prove else count)
