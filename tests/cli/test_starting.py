"""A command is there soon, because it brings in no more than it needs."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import app.cli
from app import __version__

# What the service itself needs only for some settings, or not at all.
_HEAVY = (
    "alembic",
    "asyncpg",
    "obstore",
    "app.provider.twin",
    "app.cli.demo",
    "opentelemetry.exporter",
    "opentelemetry.sdk",
    "pgqueuer",
)
_LOADED = "import json, sys; from app.cli import commands; commands({!r}); print(json.dumps(list(sys.modules)))"


def loaded_for(command: str) -> list[str]:
    """The modules of a process that is about to run this command."""
    ran = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", _LOADED.format(command)], check=True, capture_output=True, text=True
    )
    modules: list[str] = json.loads(ran.stdout)
    return modules


@pytest.mark.parametrize("command", ["serve", "work"])
def test_the_service_starts_without_what_it_does_not_need(command: str) -> None:
    assert [name for name in loaded_for(command) if name.startswith(_HEAVY)] == []


def test_a_client_of_the_service_is_not_the_service() -> None:
    needless = ("sqlalchemy", "fastapi", "PIL", *_HEAVY)

    assert [name for name in loaded_for("watch") if name.startswith(needless)] == []


def test_whoever_asks_for_nothing_known_is_shown_all_commands() -> None:
    names = [each.name or each.callback.__name__ for each in app.cli.commands().registered_commands if each.callback]

    assert {"serve", "work", "migrate", "twin", "demo", "submit", "doctor", "version"} <= set(names)


@pytest.mark.parametrize("asked", ["version", "--version"])
def test_the_version_is_printed_without_loading_any_command(asked: str) -> None:
    printed = CliRunner().invoke(app.cli.commands(asked), [asked])

    assert (printed.exit_code, printed.stdout) == (0, f"{__version__}\n")
    assert [name for name in loaded_for(asked) if name.startswith(("app.cli.", "sqlalchemy", "httpx"))] == []


@pytest.mark.parametrize("command", [[], ["serve"], ["keys"], ["keys", "add"]], ids=" ".join)
def test_every_command_takes_h_for_help(command: list[str]) -> None:
    short, long = (CliRunner().invoke(app.cli.commands(), [*command, option]) for option in ("-h", "--help"))

    assert short.exit_code == 0
    assert "Usage: fluxhook" in short.stdout
    assert short.stdout == long.stdout
