"""What the forms that make something share: the id of what a form makes, and the reasons for refused values.

The id is chosen when the form is shown, and a form that is sent again cannot make a second object with it. That holds
with any number of processes, because the database accepts an id once.
"""

from collections.abc import Mapping

from pydantic import ValidationError

from app import ids
from app.errors import Forbidden, InvalidRequest
from app.resources import Policy
from app.web.pages.access import Form, Visitor
from app.web.problems import invalid

_PURPOSE = "form-id"


def new_form_id(use: Policy, visitor: Visitor, prefix: str) -> str:
    """Return the field `once` of a form: the id of what it makes, sealed for the visitor's session."""
    made = ids.new_id(prefix, use.now())
    return f"{made}.{use.keys.mac(_message(visitor, made), _PURPOSE)}"


def form_id(use: Policy, form: Form, prefix: str) -> str:
    """Return the id in the field `once` of a form. Raises Forbidden if it was not chosen for the visitor's session."""
    made, _, mac = form.fields.get("once", "").partition(".")
    if not ids.is_id(prefix, made) or not use.keys.proves(_message(form.visitor, made), _PURPOSE, mac):
        raise Forbidden("the form is not one of this session: open its page again")
    return made


def _message(visitor: Visitor, made: str) -> bytes:
    return f"{'' if visitor.session is None else visitor.session.id} {made}".encode()


def reasons(error: ValidationError) -> Mapping[str, str]:
    """Return the reasons by field of the form, whose fields are called as the innermost members of the request."""
    found = invalid(error.errors(include_input=False, include_url=False))
    by_member = found.fields if isinstance(found, InvalidRequest) else {}
    return {name.rpartition(".")[2]: reason for name, reason in by_member.items()}
