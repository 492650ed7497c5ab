"""Version and help, which need no settings."""

import pytest
from typer.testing import CliRunner

import app.cli
from app import __version__


@pytest.mark.parametrize("argument", ["version", "--version"])
def test_the_version_is_printed(argument: str) -> None:
    printed = CliRunner().invoke(app.cli.commands(argument), [argument])

    assert (printed.exit_code, printed.stdout) == (0, f"{__version__}\n")


@pytest.mark.parametrize("command", [[], ["serve"], ["keys"], ["keys", "add"]], ids=" ".join)
def test_every_command_accepts_h_for_help(command: list[str]) -> None:
    short, long = (CliRunner().invoke(app.cli.commands(), [*command, option]) for option in ("-h", "--help"))

    assert short.exit_code == 0
    assert "Usage: fluxhook" in short.stdout
    assert short.stdout == long.stdout
