"""Pages that ask once before an action."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from fastapi import Response

from app.web.pages.access import Form, Visitor
from app.web.pages.render import render

_NO_FIELDS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked before an action, and the button that answers yes."""

    title: str
    text: str
    button: str
    is_danger: bool = False


def ask_once(
    visitor: Visitor,
    section: str,
    question: Question,
    *,
    about: str = "",
    action: str,
    back: str,
    fields: Mapping[str, str] = _NO_FIELDS,
) -> Response:
    """Return the page. `about`: what the action is about, such as a prompt. `fields`: what the form of `action` takes.

    `back`: the page of the answer no.
    """
    return render(
        "confirm.html",
        visitor=visitor,
        section=section,
        question=question,
        about=about,
        action=action,
        back=back,
        fields=fields,
    )


def ask_about_queue(
    visitor: Visitor, section: str, question: Question, *, about: str, action: str, back: str, prefix: str | None = None
) -> Response:
    """Ask before keys are refused, and what becomes of queued tasks and links. `prefix`: that of the only key."""
    return render(
        "revoke.html",
        visitor=visitor,
        section=section,
        question=question,
        about=about,
        prefix=prefix,
        action=action,
        back=back,
    )


def queued(form: Form) -> Literal["stop", "finish"]:
    """Return what the form of `ask_about_queue` says about queued tasks."""
    return "finish" if form.fields.get("finish") == "on" else "stop"


def links(form: Form) -> Literal["keep", "end"]:
    """Return what the form of `ask_about_queue` says about links to images."""
    return "end" if form.fields.get("links") == "on" else "keep"
