"""A release states one version, and `make release` says what is missing before one."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app import __version__

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / ".ci" / "release"
READY = {
    "app/__init__.py": '__version__ = "1.2.0"\n',
    "CHANGELOG.md": "# Changelog\n\n## [1.2.0] - 2030-01-31\n\n## [1.1.0] - 2029-12-01\n",
    "Dockerfile": 'LABEL org.opencontainers.image.version="1.2.0"\n',
}
ENV = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
ENV |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


def test_code_changelog_and_image_state_the_same_version() -> None:
    versions = runpy.run_path(str(SCRIPT))["versions"]

    assert versions(ROOT) == {"app/__init__.py": __version__, "CHANGELOG.md": __version__, "Dockerfile": __version__}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository that can be released."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for name, text in READY.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / ".ci").mkdir()
    shutil.copy(SCRIPT, tmp_path / ".ci")
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    person = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.com")
    subprocess.run(["git", *person, *arguments], cwd=folder, check=True, env=ENV)  # noqa: S603, S607 - our own words


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=A change")


def release(folder: Path) -> tuple[int, str]:
    ran = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, folder / ".ci" / "release"], check=False, capture_output=True, text=True, env=ENV
    )
    assert ran.stderr == ""
    return ran.returncode, ran.stdout


def test_the_steps_of_a_release_are_printed_and_nothing_is_changed(checkout: Path) -> None:
    code, printed = release(checkout)

    assert code == 0
    assert 'git tag --annotate v1.2.0 --message "Fluxhook 1.2.0"' in printed
    assert "docker build --tag fluxhook:1.2.0 ." in printed
    assert printed.endswith("1.2.0 can be released.\n")
    assert {path.name for path in checkout.iterdir()} == {".ci", ".git", "app", "CHANGELOG.md", "Dockerfile"}
    assert not list((checkout / ".git" / "refs" / "tags").iterdir())


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("Dockerfile", "1.2.0", "1.1.0", "1.1.0 in Dockerfile"),
        ("app/__init__.py", "1.2.0", "1.3.0", "1.3.0 in app/__init__.py, 1.2.0 in CHANGELOG.md"),
        ("CHANGELOG.md", "## [1.2.0] - 2030-01-31", "## [Unreleased]", "is '## [Unreleased]' and must be"),
        ("CHANGELOG.md", " - 2030-01-31", "", "is '## [1.2.0]' and must be"),
        ("CHANGELOG.md", "2030-01-31", "2030-02-31", "is '## [1.2.0] - 2030-02-31' and must be"),
    ],
    ids=["label", "code", "unreleased", "no date", "no such day"],
)
def test_missing_parts_of_a_release_are_named(checkout: Path, name: str, old: str, new: str, problem: str) -> None:
    (checkout / name).write_text(READY[name].replace(old, new, 1))
    commit(checkout)
    code, printed = release(checkout)

    assert code == 1
    assert problem in printed
    assert "can be released" not in printed


def test_changes_another_branch_and_an_existing_tag_are_named(checkout: Path) -> None:
    git(checkout, "tag", "v1.2.0")
    git(checkout, "switch", "--quiet", "--create", "other")
    (checkout / "left-over").touch()
    code, printed = release(checkout)

    assert code == 1
    assert "not committed:\n?? left-over" in printed
    assert "the branch is 'other' and must be 'main'" in printed
    assert "the tag v1.2.0 exists already" in printed
