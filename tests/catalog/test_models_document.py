"""`docs/models.md` shows the catalog as it is, and its example is a row that works."""

import re
from pathlib import Path

import pytest

from app.catalog import open_catalog, shipped_catalog
from tests.catalog.models_document import DOCUMENT, text


def test_the_document_of_the_models_is_current(pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("regenerate"):
        DOCUMENT.write_text(text(shipped_catalog()))

    assert DOCUMENT.read_text() == text(shipped_catalog())


def test_the_row_in_the_document_can_be_used(tmp_path: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert example is not None
    assert len(example[1].splitlines()) <= 10
    file = tmp_path / "models.toml"
    file.write_text(example[1])

    assert open_catalog(file).model("flux-9").images.max == 2


def test_the_document_names_every_member_of_a_row() -> None:
    schema = (Path(__file__).parents[2] / "app" / "catalog" / "row.schema.json").read_text()
    members = re.findall(r'^    "(\w+)": \{', schema, re.MULTILINE)

    assert [name for name in members if f"`{name}`" not in DOCUMENT.read_text()] == []
