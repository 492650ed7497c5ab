"""`.ci/phrase-check` finds the phrases that the project does not use, in prose and nowhere else."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "phrase-check"
check = runpy.run_path(str(SCRIPT))["check"]

SENTENCES = {
    "whoever": "It ends for whoever comes.",
    "Who": "Who asks first gets it.",
    "nobody": "The job of nobody.",
    "somebody": "The job of somebody.",
    "for ever": "It waits for ever.",
    "all the same": "It is sent all the same.",
    "so many": "Add so many rows.",
    "is told": "The client is told.",
    "are told": "Both are told.",
    "what is to be": "It says what is to be done.",
    "as things stand": "Not possible as things stand.",
    "mend": "The caller can mend it.",
    "mends": "A restart mends it.",
    "mended": "It was mended.",
    "ill": "The worker is ill.",
    "by and by": "It ends by and by.",
}


def phrases(name: str, text: str) -> list[str]:
    """What was found, without the place and the line."""
    return [problem.split(": ")[1] for problem in check(name, text)]


@pytest.mark.parametrize(("phrase", "sentence"), SENTENCES.items())
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("app/a.py", "x = 1  # {}\n"),
        ("app/a.py", 'def f() -> None:\n    """{}"""\n'),
        ("app/a.py", 'x = f"{{y}} {}"\n'),
        ("README.md", "# A title\n\nA text. {}\n"),
        ("docs/alerts.yml", "summary: {}\n"),
        ("Makefile", "all: ## {}\n"),
        (".ci/run", "#!/bin/sh\n# {}\n"),
        (".ci/check", "#!/usr/bin/env python3\n# {}\n"),
    ],
    ids=["comment", "docstring", "string", "markdown", "yaml", "makefile", "shell script", "python script"],
)
def test_each_phrase_is_found_in_prose(phrase: str, sentence: str, name: str, form: str) -> None:
    (found,) = phrases(name, form.format(sentence))

    assert found.startswith(phrase)


def test_a_problem_names_file_line_phrase_and_text() -> None:
    assert check("app/a.py", "x = 1\n\n    # It waits for ever.\n") == ["app/a.py:3: for ever: # It waits for ever."]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("app/a.py", "# It waits for\n# ever.\n"),
        ("app/a.py", '"""It waits for\n    ever."""\n'),
        ("app/a.py", 'x = "It waits for "\n"ever."\n'),
        ("README.md", "- It waits for\n  *ever*.\n"),
    ],
    ids=["comment", "docstring", "strings", "markdown"],
)
def test_a_phrase_is_found_across_a_line_break(name: str, text: str) -> None:
    assert phrases(name, text) == ["for ever"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("app/a.py", "somebody_id = nobody.ill(whoever)\n"),
        ("app/a.py", 'x = f"{somebody} {nobody!r}"\n'),
        ("app/a.py", 'x = ("for", "ever")\n'),
        ("app/a.py", "# The somebody_id of a still, illegal, amended row; a person who asks.\n"),
        ("app/a.py", "# Who asks first?\n"),
        ("README.md", "The field `somebody`.\n\n```sh\nsend --to nobody\n```\n"),
        ("Makefile", "all:\n\tsend --to nobody\n"),
        ("docker-compose.yml", "user: nobody\n"),
    ],
    ids=["identifiers", "f-string", "two strings", "parts of words", "question", "markdown", "makefile", "compose"],
)
def test_code_and_parts_of_words_are_passed_over(name: str, text: str) -> None:
    assert phrases(name, text) == []


def test_a_comment_in_a_code_block_is_prose() -> None:
    assert phrases("README.md", "```sh\nsend  # to nobody\n```\n") == ["nobody"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("app/a.py", 'x = "nobody"  # phrase: a user of Linux\n'),
        ("app/a.py", '# phrase: a user of Linux\nx = "nobody"\n'),
        ("README.md", "Run it as nobody. <!-- phrase: a user of Linux -->\n"),
        ("README.md", "<!-- phrase: a user of Linux -->\nRun it as nobody.\n"),
        ("Makefile", "# phrase: a user of Linux\n# Run it as nobody.\n"),
    ],
    ids=["end of a line", "line before", "markdown, end of a line", "markdown, line before", "makefile"],
)
def test_a_marker_with_a_reason_allows_a_line(name: str, text: str) -> None:
    assert phrases(name, text) == []


@pytest.mark.parametrize(
    "text",
    ['x = "nobody"\n# phrase: a user of Linux\n', 'x = "a"  # phrase: a user of Linux\ny = "nobody"\n'],
    ids=["line after", "end of the line before"],
)
def test_a_marker_allows_no_other_line(text: str) -> None:
    assert phrases("app/a.py", text) == ["nobody"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("app/a.py", 'x = "nobody"  # phrase:\n'), ("README.md", "Run it as nobody. <!-- phrase: -->\n")],
    ids=["python", "markdown"],
)
def test_a_marker_without_a_reason_is_refused(name: str, text: str) -> None:
    assert sorted(phrases(name, text)) == ["marker without a reason", "nobody"]


def test_the_command_reads_the_project_but_not_its_tests(tmp_path: Path) -> None:
    for name in (".ci", "app", "docs", "tests"):
        (tmp_path / name).mkdir()
    script = Path(shutil.copy(SCRIPT, tmp_path / ".ci"))
    (tmp_path / "tests" / "test_a.py").write_text("# For whoever reads it.\n")
    passed = run(script)
    (tmp_path / "app" / "a.py").write_text("# For whoever reads it.\n")
    (tmp_path / "docs" / "a.md").write_text("For nobody.\n")
    failed = run(script)

    assert passed == (0, "")
    assert failed == (1, "app/a.py:1: whoever: # For whoever reads it.\ndocs/a.md:1: nobody: For nobody.\n")


def run(script: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True)  # noqa: S603 - our code
    assert done.stderr == ""
    return done.returncode, done.stdout
