"""Hypothesis profiles for the whole suite, independent of the speed of the machine."""

import os

from hypothesis import HealthCheck, settings

_NORMAL, _PROVE, _COLD = "normal", "prove", "cold"
_EXAMPLES = 50
_FEW = 5  # in `make cold`, which tests the slow first examples
_MORE = 4  # factor of examples in `make prove`


def install() -> None:
    """Register the profiles and load the one named by HYPOTHESIS_PROFILE."""
    settings.register_profile(
        _NORMAL,
        max_examples=_EXAMPLES,
        # The first draw of a strategy may build tables for seconds, so a deadline would fail correct tests.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        derandomize="CI" in os.environ,
    )
    settings.register_profile(_PROVE, settings.get_profile(_NORMAL), max_examples=_EXAMPLES * _MORE, derandomize=False)
    settings.register_profile(_COLD, settings.get_profile(_NORMAL), max_examples=_FEW)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", _NORMAL))


def examples(count: int) -> settings:
    """Set the number of examples of a test, if the default is too expensive or too few; more in `make prove`."""
    is_prove = os.environ.get("HYPOTHESIS_PROFILE") == _PROVE
    return settings(max_examples=count * _MORE if is_prove else count)
