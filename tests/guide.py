"""The blocks of the operating guide that tests run, each under a comment with its name: `<!-- tested: NAME -->`."""

import re
from pathlib import Path

GUIDE = Path(__file__).parent.parent / "docs" / "operating.md"


def block(name: str) -> str:
    """The commands or the configuration that the guide gives under this name."""
    found = re.search(rf"<!-- tested: {name} -->\n```\w*\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found is not None, f"the guide has no block {name}"
    return found[1]
