"""Version, help and completion, which need no valid settings."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

import app.cli
from app import __version__
from tests.cli.test_commands import Terminal, terminal

__all__ = ["terminal"]
PATIENCE_S = 30  # the machine may be slow; without a limit it would be 90 s


@pytest.mark.parametrize("argument", ["version", "--version"])
def test_the_version_is_printed(argument: str) -> None:
    printed = CliRunner().invoke(app.cli.commands(argument), [argument])

    assert (printed.exit_code, printed.stdout) == (0, f"{__version__}\n")


def test_the_list_of_commands_needs_no_imports_and_has_the_sentences_of_the_commands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    listed = CliRunner().invoke(app.cli.commands(""), ["--help"])
    imported = CliRunner().invoke(app.cli.commands(), ["--help"])

    assert listed.exit_code == 0
    assert listed.stdout == imported.stdout


@pytest.mark.parametrize("command", [[], ["serve"], ["keys"], ["keys", "add"]], ids=" ".join)
def test_every_command_accepts_h_for_help(command: list[str]) -> None:
    short, long = (CliRunner().invoke(app.cli.commands(), [*command, option]) for option in ("-h", "--help"))

    assert short.exit_code == 0
    assert "Usage: fluxhook" in short.stdout
    assert short.stdout == long.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["mod"], ["models"]),
        (["models", "flux-kontext-m"], ["flux-kontext-max"]),
        (["submit", "fox", "--model", "flux-kontext-m"], ["flux-kontext-max"]),
        (["keys", "dis"], ["disable"]),
    ],
    ids=" ".join,
)
def test_a_shell_completes_commands_and_models_even_with_a_wrong_setting(line: list[str], expected: list[str]) -> None:
    assert completed(line, FLUXHOOK_NO_SUCH_THING="1") == (expected, "")


def completed(line: list[str], **env: str) -> tuple[list[str], str]:
    """What a shell gets for this line, whose last word is completed, and what is on stderr."""
    words = ["fluxhook", *line]
    asked = {"_FLUXHOOK_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(line))}
    done = subprocess.run(
        [sys.executable, "-m", "app"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **asked, **env},
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stdout.split(), done.stderr


async def test_a_shell_completes_the_ids_of_tasks(terminal: Terminal) -> None:
    task_ids = [(await terminal.run("submit", f"`touch x` $(touch y) {n}")).stdout.strip() for n in range(2)]
    every = await asyncio.to_thread(partial(completed, ["show", ""], **terminal.env))
    some = await asyncio.to_thread(partial(completed, ["show", "--json", task_ids[0][:30]], **terminal.env))
    none = await asyncio.to_thread(partial(completed, ["show", "--key", "wrong", ""], **terminal.env))

    assert every == (task_ids[::-1], "")
    assert some == ([task_ids[0]], "")
    assert none == ([], "")


@pytest.mark.parametrize("kind", ["nothing listens", "silent", "no service", "wrong setting"])
def test_a_service_that_does_not_answer_completes_nothing_in_bounded_time(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, and answers nothing
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        urls = {"nothing listens": "http://127.0.0.1:1", "silent": url, "no service": "ftp://x", "wrong setting": url}
        setting = {"FLUXHOOK_NO_SUCH_THING": "1"} if kind == "wrong setting" else {}
        begun = time.monotonic()
        found = completed(["cancel", ""], FLUXHOOK_URL=urls[kind], FLUXHOOK_API_KEY="key", **setting)

    assert found == ([], "")
    assert time.monotonic() - begun < PATIENCE_S
