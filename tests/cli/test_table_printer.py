"""Tables of the commands, on a terminal and elsewhere."""

from datetime import UTC, datetime, timedelta

import pytest

from app.cli.table_printer import STATES, Column, age, print_table

TASK = "task_" + "0" * 37
AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
COLUMNS = (
    Column("created"),
    Column("id"),
    Column("state", styles=STATES),
    Column("model", optional=True),
    Column("prompt", flexible=True),
)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make rich write as to a terminal of 80 columns."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")


def test_elsewhere_than_on_a_terminal_each_record_is_a_line_of_whole_fields(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    print_table(COLUMNS, [(AT, TASK, "stored", None, "a fox " * 40)])

    header, row = capsys.readouterr().out.splitlines()
    assert header == "created\tid\tstate\tmodel\tprompt"
    assert row.split("\t") == ["2026-01-31T12:00:00Z", TASK, "stored", "", "a fox " * 40]


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_a_table_fits_80_columns_and_keeps_its_ids_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [(AT, TASK, "content_moderated", "flux-kontext-pro", "a fox " * 40)])

    lines = capsys.readouterr().out.splitlines()
    assert "\x1b[1m" in lines[0]
    assert TASK in lines[1]
    assert "…" in lines[1]
    assert "flux-kontext-pro" not in lines[1]  # the optional column is left out
    assert all(len(line) <= 80 for line in lines[1:])


@pytest.mark.parametrize("text", ["a [red]fox[/] \\[x] :fox:", "ünïcödé"])
def test_text_that_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], text: str) -> None:
    print_table(("id", "prompt"), [("1", text)])

    assert capsys.readouterr().out.splitlines()[1] == f"1\t{text}"


def test_control_characters_of_a_prompt_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("prompt",), [("a\x1b]0;owned\x07\nfox\u202e",)])

    assert capsys.readouterr().out.splitlines()[1] == "a\\x1b]0;owned\\x07 fox\\u202e"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7199, "1 h"), (86_400 * 40, "40 d")]
)
def test_an_age_is_given_in_its_largest_unit(seconds: int, text: str) -> None:
    assert age(timedelta(seconds=seconds)) == text
