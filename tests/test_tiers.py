"""Which files are imported, and which tests are chosen from them."""

import pytest

from tests.tiers import TESTS, is_left_out, one_case_of_each

TEST, CHECK = "not proof and not check", "check"
PROVE, COLD = "proof or hypothesis", "(hypothesis and not proof) or process"


@pytest.mark.parametrize(
    ("file", "expression", "left_out"),
    [
        ("cli/test_commands.py", TEST, True),
        ("cli/test_commands.py", CHECK, False),
        ("proof/test_storm.py", TEST, True),
        ("proof/test_storm.py", CHECK, True),
        ("proof/test_storm.py", COLD, True),
        ("proof/test_crash.py", COLD, False),  # a proof that starts a process
        ("rules/test_task.py", PROVE, False),
        ("rules/test_task.py", COLD, False),
        ("cli/test_stopping.py", COLD, False),
        ("test_notify.py", PROVE, True),
        ("test_notify.py", COLD, True),
        ("test_notify.py", CHECK, False),
        ("test_notify.py", "", False),
        ("test_notify.py", "anyio", False),  # a mark that its text does not show
        ("test_notify.py", "not anyio", False),
        ("world.py", PROVE, False),
    ],
)
def test_a_file_is_left_out_only_if_none_of_its_tests_can_be_selected(
    file: str, expression: str, *, left_out: bool
) -> None:
    assert is_left_out(TESTS / file, expression) is left_out


def test_one_case_of_each_test_is_chosen(request: pytest.FixtureRequest) -> None:
    chosen = [item.nodeid.partition("[")[0] for item in one_case_of_each(request.session.items)]

    assert sorted(chosen) == sorted({item.nodeid.partition("[")[0] for item in request.session.items})
