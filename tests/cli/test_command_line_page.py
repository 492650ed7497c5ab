"""The commands of `docs/command-line.md` are run in their order, against a real service and its twin."""

import re
import shlex
from pathlib import Path

import pytest

from app.cli import commands
from tests.cli.test_commands import Terminal, terminal
from tests.pictures import picture

__all__ = ["terminal"]

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
_BLOCK = re.compile(r"(<!-- not run: [^>]+-->\n)?```sh\n(.*?)```", re.DOTALL)


def lines_to_run() -> list[str]:
    """Return the lines of all blocks that begin with `fluxhook`, except those that are marked as not run."""
    blocks = [block for mark, block in _BLOCK.findall(PAGE.read_text()) if not mark]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.startswith("fluxhook ")]


async def test_each_command_of_the_page_succeeds(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(picture(form="JPEG"))
    rows = re.search(r"```csv\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert rows is not None
    (tmp_path / "prompts.csv").write_text(rows[1])
    tasks = {
        "$ID": (await terminal.run("submit", "a fox", "--wait")).stdout.strip(),
        "$FAILED": (await terminal.run("submit", "an unsafe result", "--wait")).stdout.strip(),
    }
    for line in lines_to_run():
        words = shlex.split(line.partition(" | ")[0].partition(" > ")[0])
        done = await terminal.run(*(tasks.get(word, word) for word in words[1:]))
        assert done.exit_code == 0, (line, done.output)


def test_the_page_names_every_command() -> None:
    names = [command.name for command in commands().registered_commands]
    text = PAGE.read_text()
    assert [name for name in names if name and f"`{name}`" not in text and f"fluxhook {name}" not in text] == []
