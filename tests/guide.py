"""Blocks of the operating guide that tests run; a comment `<!-- tested: NAME -->` precedes each."""

import re
from pathlib import Path

GUIDE = Path(__file__).parent.parent / "docs" / "operating.md"


def block(name: str) -> str:
    """Return the commands or configuration of the block with this name."""
    found = re.search(rf"<!-- tested: {name} -->\n```\w*\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found is not None, f"the guide has no block {name}"
    return found[1]
