"""Tables of the commands."""

import pytest

from app.cli.table_printer import print_table


def test_text_that_looks_like_markup_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "prompt"), [("1", "a [red]fox[/] \\[x] :fox:")], 80)

    assert capsys.readouterr().out.splitlines()[1].split(maxsplit=1) == ["1", "a [red]fox[/] \\[x] :fox:"]


def test_the_width_does_not_depend_on_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "10")

    print_table(("id",), [("task_" + "0" * 37,)], 120)

    assert "task_" + "0" * 37 in capsys.readouterr().out
