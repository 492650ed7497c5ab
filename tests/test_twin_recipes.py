"""The recipes of docs/twin.md, run as they are printed; only the port is replaced by a free one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import skip_or_fail
from tests.sockets import free_address

DOCUMENT = Path(__file__).parents[1] / "docs" / "twin.md"
_MAX_S = 300


def run(command: list[str], file: Path, recipe: str) -> None:
    """Write the recipe to this file and run the command in its folder, with `fluxhook` on the path."""
    found = re.search(rf"<!-- tested: {recipe} -->\n```\w+\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert found is not None
    file.write_text(found[1].replace("8090", free_address().rpartition(":")[2]))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(  # noqa: S603 - our own recipe
        command,
        cwd=file.parent,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=_MAX_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_recipe_for_pytest_passes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "test_twin.py"]
    run(command, tmp_path / "test_twin.py", "pytest")


def test_the_recipe_for_node_passes(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        skip_or_fail("node", "Node.js is not installed")
    run([str(node), "--test", "twin.test.mjs"], tmp_path / "twin.test.mjs", "node")
