"""Describe an exception for the log: what it is and where it was raised, without its message.

A message may hold a prompt or a secret: a driver names the parameters of a statement, a parser the text that it reads.
"""

import traceback

_MAX_FRAMES = 30  # the innermost ones: a RecursionError has a thousand


def describe(error: BaseException) -> str:
    """Return types, codes and locations of an exception and of its causes, the exception itself first."""
    described, seen = [], set[int]()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        described.append("\n".join([_name(cause), *_frames(cause), *_members(cause)]))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\ncaused by ".join(described)


def _name(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    code = _code(error)
    return name if code is None else f"{name} [{code}]"


def _code(error: BaseException) -> str | int | None:
    """Return the code of an error of the operating system or of a database."""
    for value in (error, getattr(error, "orig", None)):
        for name in ("sqlstate", "sqlite_errorname", "errno"):
            code = getattr(value, name, None)
            if isinstance(code, str | int):
                return code
    return None


def _frames(error: BaseException) -> list[str]:
    frames = list(traceback.walk_tb(error.__traceback__))[-_MAX_FRAMES:]
    return [f"  {frame.f_code.co_filename}:{line} in {frame.f_code.co_qualname}" for frame, line in frames]


def _members(error: BaseException) -> list[str]:
    """Return the exceptions of a group, indented."""
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return [f"  - {describe(member)}".replace("\n", "\n    ") for member in members]
