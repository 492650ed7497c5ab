"""What commands print: JSON, and texts of users and providers as one line without control characters."""

import json
from typing import Any

import typer

_JOINERS = "\u200c\u200d"  # parts of words and of emoji


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def one_line(text: str) -> str:
    """Return a text as one line. Control characters, which could change a terminal, are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()
