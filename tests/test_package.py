"""What is installed with the package is enough to import all of it."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent


def declared() -> set[str]:
    """The names of the distributions that the package depends on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {normal(re.split(r"[^\w.-]", wanted, maxsplit=1)[0]) for wanted in project["dependencies"]}


def imported() -> set[str]:
    """The top-level names of the third-party modules that the files of the wheel import."""
    files = [file for folder in ("app", "migrations") for file in (ROOT / folder).rglob("*.py")]
    return {name for file in files for name in imports_of(file)} - {*sys.stdlib_module_names, "app"}


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_third_party_import_is_a_declared_dependency() -> None:
    distributions = packages_distributions()

    assert [name for name in sorted(imported()) if not declared() & set(map(normal, distributions[name]))] == []
