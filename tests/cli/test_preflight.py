"""A start without a resource that it needs ends with one sentence that names the setting, without a traceback."""

import asyncio
import os
import stat
from collections.abc import Generator
from pathlib import Path
from uuid import uuid4  # noqa: TID251 - names a throw-away database

import pytest
from sqlalchemy import make_url
from structlog.testing import capture_logs
from typer.testing import CliRunner

from app.cli import commands
from app.cli.preflight import is_writable, require
from app.cli.serve import prepare
from app.db import Connection
from app.db.engine.database import open_database
from app.errors import FluxhookError
from app.settings import Settings
from tests.postgres import Postgres
from tests.sockets import listening


def refusal(command: str, env: dict[str, str]) -> str:
    """Return the error that ends this command."""
    with capture_logs():
        ended = CliRunner().invoke(commands(), [command], env=env)
    assert isinstance(ended.exception, FluxhookError), ended.exception
    return ended.exception.detail


def test_the_files_of_a_start_are_open_to_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for created in (folder, folder / "images"):
        created.chmod(0o755)
    os.umask(0o022)
    settings = Settings.model_validate({"data_dir": folder})
    require(settings)
    asyncio.run(prepare(settings))
    files = [path for path in folder.rglob("*") if path.is_file()]

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in files} >= {"fluxhook.db", "admin_key", "secret_keys"}
    assert [(path.name, oct(path.stat().st_mode)) for path in files if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("command", ["serve", "work"])
def test_an_alias_of_no_model_ends_the_start_with_one_sentence(command: str, tmp_path: Path) -> None:
    file = tmp_path / "fluxhook.toml"
    file.write_text('[openai.aliases]\ngpt-image-1 = "flux-3-video"\n')
    env = {"FLUXHOOK_DATA_DIR": str(tmp_path / "data"), "FLUXHOOK_CONFIG": str(file), "FLUXHOOK_PORT": "0"}

    assert refusal(command, env).startswith("FLUXHOOK_CONFIG: openai: aliases: gpt-image-1: flux-3-video makes videos")


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"FLUXHOOK_DATA_DIR": "{file}"}, "FLUXHOOK_DATA_DIR: {file} cannot be created by user"),
        ({"FLUXHOOK_DATA_DIR": "{file}/below"}, "FLUXHOOK_DATA_DIR: {file}/below cannot be created by user"),
        ({"FLUXHOOK_STORE_URL": "{file}/below"}, "FLUXHOOK_STORE_URL: the image store cannot be created"),
        ({"FLUXHOOK_STORE_URL": "ftp://images"}, "FLUXHOOK_STORE_URL: must be a folder or begin with s3://"),
        ({"FLUXHOOK_STORE_URL": "s3://[images"}, "FLUXHOOK_STORE_URL: not a valid URL"),
        ({"FLUXHOOK_STORE_URL": "az://images"}, "FLUXHOOK_STORE_URL: cannot be used"),
        ({"FLUXHOOK_STORE_URL": "s3://images", "AWS_ENDPOINT_URL": "minio:9000"}, "AWS_ENDPOINT_URL: must be an http"),
        ({"FLUXHOOK_CA_FILE": "{file}"}, "FLUXHOOK_CA_FILE: {file} must contain certificates in PEM form"),
        ({"FLUXHOOK_CA_FILE": "{file}/below"}, "FLUXHOOK_CA_FILE: {file}/below cannot be read"),
        ({"FLUXHOOK_HTTPS_PROXY": "proxy:3128"}, "FLUXHOOK_HTTPS_PROXY: must be the URL of an http(s) proxy"),
        (
            {"FLUXHOOK_DATABASE_URL": "sqlite:///{file}/below.db"},
            "FLUXHOOK_DATABASE_URL: {file}/below.db cannot be used",
        ),
        ({"FLUXHOOK_DATABASE_URL": "sqlite:///{file}"}, "the database's file is damaged or is not a SQLite file"),
        ({"FLUXHOOK_DATABASE_URL": "sqlite:fluxhook.db"}, "FLUXHOOK_DATABASE_URL: SQLite needs a file"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "work"])
def test_an_unusable_resource_is_named_in_one_sentence(
    tmp_path: Path, command: str, env: dict[str, str], expected: str
) -> None:
    file = tmp_path / "file"
    file.write_text("neither a folder nor a database")
    env = {name: value.format(file=file) for name, value in env.items()}
    detail = refusal(command, {"FLUXHOOK_DATA_DIR": str(tmp_path / "data"), **env})

    assert detail.startswith(expected.format(file=file))


def test_a_demo_without_a_usable_folder_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "data").touch()

    detail = refusal("demo", {"FLUXHOOK_DATA_DIR": str(tmp_path / "data")})

    assert detail.startswith(f"FLUXHOOK_DATA_DIR: {tmp_path / 'data' / 'demo'} cannot be created by user")


@pytest.mark.parametrize("name", ["admin_key", "secret_keys"])
def test_a_saved_key_that_is_not_text_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe")

    detail = refusal("serve", {"FLUXHOOK_DATA_DIR": str(tmp_path)})

    assert detail == f"{tmp_path / name} cannot be read: it is not text; it is in FLUXHOOK_DATA_DIR"


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "192.0.2.1", "a..b"])
def test_an_address_that_cannot_be_listened_on_is_named_before_the_database_is_created(
    tmp_path: Path, host: str
) -> None:
    bound, address = listening()
    port = address.rpartition(":")[2]
    env = {"FLUXHOOK_DATA_DIR": str(tmp_path), "FLUXHOOK_HOST": host, "FLUXHOOK_PORT": port}
    with bound:
        detail = refusal("serve", env)

    assert detail.startswith(f"FLUXHOOK_HOST, FLUXHOOK_PORT: cannot listen on {host}:{port}: ")
    assert not (tmp_path / "fluxhook.db").exists()


@pytest.fixture
def postgres_guest_url(postgres: Postgres) -> Generator[str]:
    """The URL of an empty PostgreSQL database, for a role that may only connect to it."""
    name = f"test_{uuid4().hex}"
    address = asyncio.run(postgres.create(name))
    asyncio.run(_do(address, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", f"CREATE ROLE {name} LOGIN"))
    yield make_url(address).set(username=name).render_as_string(hide_password=False)
    asyncio.run(postgres.drop(name))
    asyncio.run(_do(postgres.dsn, f"DROP ROLE {name}"))


async def _do(address: str, *statements: str) -> None:
    def unit(connection: Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement).close()

    async with open_database(address) as database:
        await database.write(unit)


def test_a_database_user_without_the_right_to_change_the_schema_is_reported(
    tmp_path: Path, postgres_guest_url: str
) -> None:
    env = {
        "FLUXHOOK_DATA_DIR": str(tmp_path),
        "FLUXHOOK_DATABASE_URL": postgres_guest_url,
        "FLUXHOOK_SECRET_KEYS": "n" * 40,
        "FLUXHOOK_ADMIN_KEY": "a" * 24,
    }

    assert "FLUXHOOK_DATABASE_URL: its user may not change the schema" in refusal("migrate", env)


def test_a_file_is_not_a_writable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert is_writable(tmp_path)
    assert not is_writable(tmp_path / "file")
