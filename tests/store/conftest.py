"""Buckets of three clouds, from local servers with the same protocols."""

from collections.abc import Generator

import pytest

from tests.store import clouds
from tests.store.buckets import SCHEMES, serving, variables


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A server that speaks S3, checks signatures, and has one bucket."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "pictures").mkdir()
    command = ("-m", "nanio", "serve", "--host", "127.0.0.1", "--data-dir", str(folder), "--port")
    with serving(*command, NANIO_ACCESS_KEY="key", NANIO_SECRET_KEY="secret") as address:
        yield address


@pytest.fixture(scope="session")
def gs() -> Generator[str]:
    with serving(clouds.__file__, "gs") as address:
        yield address


@pytest.fixture(scope="session")
def az() -> Generator[str]:
    with serving(clouds.__file__, "az") as address:
        yield address


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kind of bucket, whose server runs and is named by the environment."""
    name = str(request.param)
    for variable, value in variables(name, request.getfixturevalue(name)).items():
        monkeypatch.setenv(variable, value)
    return name
