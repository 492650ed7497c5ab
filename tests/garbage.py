"""A pytest plugin: modules and collected tests are not garbage, and to look for it among them takes a tenth of the CPU.

It is loaded by `addopts` in `pyproject.toml`, before any other module of the project.
"""

import gc

gc.disable()


def pytest_collection_finish() -> None:
    """Exclude all that was loaded from garbage collection, as a start of the service does."""
    gc.freeze()
    gc.enable()
