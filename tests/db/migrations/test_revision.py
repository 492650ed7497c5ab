"""The migrations are found in an installed package and in a checkout."""

from pathlib import Path

import app
from app.db.migrations.revision import newest, steps_folder


def test_the_migrations_of_a_checkout_are_beside_the_package() -> None:
    package = Path(app.__file__).parent

    assert steps_folder() == package.parent / "migrations"
    assert (steps_folder() / "env.py").is_file()
    assert list(steps_folder().glob(f"versions/{newest()}_*.py"))


def test_the_migrations_of_an_installed_package_are_inside_it(tmp_path: Path) -> None:
    package, beside = tmp_path / "site-packages" / "app", tmp_path / "site-packages" / "migrations"
    (package / "_migrations").mkdir(parents=True)
    beside.mkdir()

    assert steps_folder(package) == package / "_migrations"
