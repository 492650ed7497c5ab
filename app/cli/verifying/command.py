"""`verify-callback`: judges a captured callback as the service does."""

import hmac
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from app.cli.answers import TimelineAnswer, get
from app.cli.api import connect, task_path
from app.cli.failure import fail
from app.cli.options import AsJson, Key, Url
from app.cli.output import one_line, print_json
from app.cli.verifying.captured import Captured, NotReadable, from_curl, from_files, path_of
from app.security.diagnosis import Candidate, Check, Diagnosis, diagnose
from app.security.keyring import KeyRing
from app.settings import CALLBACK_SECRET, Settings, from_environment
from app.wiring import key_ring

_AGE = {True: "", False: ", made with an older secret key"}
_MARKS = {True: "[green]ok[/]   ", False: "[red]wrong[/]", None: "[dim]none[/] "}


def verify_callback(
    headers: Annotated[Path | None, typer.Option(help="A file with the headers: `Name: value` lines, or JSON.")] = None,
    body: Annotated[Path | None, typer.Option(help="A file with the body, byte by byte as it came.")] = None,
    curl: Annotated[
        str | None, typer.Option(metavar="FILE|-", help="Instead: a file with a curl command, or - for standard input.")
    ] = None,
    callback_url: Annotated[
        str | None, typer.Option(help="The URL that was called, if the headers or the curl command do not have it.")
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help=f"A file with the secret. Default: {CALLBACK_SECRET}, else the secret keys.")
    ] = None,
    attempt: Annotated[
        list[str] | None, typer.Option(help="An attempt whose secret may have been used. Repeatable.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Try the attempts of this task, which the service lists.")] = None,
    *,
    as_json: AsJson = False,
    url: Url = None,
    key: Key = None,
) -> None:
    """Say whether a callback proves its origin, which check fails, and the likely cause.

    The exit code is 1 unless it is proven.
    """
    captured = _captured(headers, body, curl, callback_url)
    attempts = [*(attempt or []), *(_attempts(task, url, key) if task is not None else [])]
    address: list[Check] = []
    secret = _given_secret(secret_file)
    if secret is not None:
        expected, others = Candidate("the given secret", secret), list[Candidate]()
    else:
        ring = _ring(from_environment())
        if captured.address is not None:
            address.append(_address(ring, captured.address))
        expected, *others = _candidates(ring, captured, attempts)
    diagnosis = diagnose(captured, expected, others)
    _print(diagnosis, address, as_json=as_json)
    raise typer.Exit(0 if diagnosis.is_proven and all(check.ok for check in address) else 1)


def _captured(headers: Path | None, body: Path | None, curl: str | None, url: str | None) -> Captured:
    try:
        if curl is not None:
            if headers is not None or body is not None:
                raise typer.BadParameter("give --curl, or --headers and --body", param_hint="--curl")
            text = sys.stdin.read() if curl == "-" else _read(Path(curl)).decode("utf-8", "surrogateescape")
            found = from_curl(text)
            return found if url is None else Captured(found.headers, found.body, path_of(url))
        if headers is None or body is None:
            raise typer.BadParameter("give --headers and --body, or --curl", param_hint="--headers")
        return from_files(_read(headers).decode("utf-8", "surrogateescape"), _read(body), url)
    except NotReadable as error:
        fail(str(error), error)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", error)


def _given_secret(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(CALLBACK_SECRET) or None
    try:
        secret = _read(file).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        fail(f"{file} cannot be read: it is not text", error)
    if not secret:
        fail(f"{file} is empty")
    return secret


def _ring(settings: Settings) -> KeyRing:
    """Return the secret keys of this installation. They are never created here."""
    if not settings.secret_keys and not (settings.data_dir / "secret_keys").exists():
        fail(
            "no secret to verify with: give --secret-file, or run the command with the FLUXHOOK_SECRET_KEYS or the "
            "FLUXHOOK_DATA_DIR of the service"
        )
    return key_ring(settings)


def _address(ring: KeyRing, address: tuple[str, str]) -> Check:
    attempt_id, token = address
    if ring.prove_token(attempt_id, token) is not None:
        return Check("address", True, f"its token is that of attempt {one_line(attempt_id)}")
    return Check("address", False, "its token is not one of this installation: the service answers 404")


def _candidates(ring: KeyRing, captured: Captured, attempts: list[str]) -> list[Candidate]:
    """Return the secrets of all attempts that may be meant, the expected one first: that of the address."""
    ids = list(dict.fromkeys([*([captured.address[0]] if captured.address is not None else []), *attempts]))
    if not ids:
        fail("no attempt is known: give the URL that was called with --callback-url, or --attempt, or --task")
    by_key = {
        (attempt_id, name): Candidate(
            f"the secret of attempt {one_line(attempt_id)}{_AGE[name == ring.newest]}",
            ring.callback_proof(attempt_id, name).secret,
        )
        for attempt_id in ids
        for name in ring
    }
    first = next(iter(by_key.values()))
    if captured.address is not None:
        proof = ring.prove_token(*captured.address)
        expected = "" if proof is None else proof.secret
        first = next((found for found in by_key.values() if hmac.compare_digest(found.secret, expected)), first)
    return [first, *(candidate for candidate in by_key.values() if candidate is not first)]


def _attempts(task_id: str, url: str | None, key: str | None) -> list[str]:
    with connect(from_environment(), url, key) as client:
        entries = get(client, f"{task_path(task_id)}/timeline", TimelineAnswer).entries
    return [entry.submission_id for entry in entries if entry.event == "submission" and entry.submission_id]


def _print(diagnosis: Diagnosis, address: list[Check], *, as_json: bool) -> None:
    checks = [*address, *diagnosis.checks]
    if as_json:
        print_json(
            {
                "verdict": diagnosis.verdict,
                "profile": diagnosis.profile,
                "checks": [{"name": check.name, "ok": check.ok, "text": check.text} for check in checks],
                "causes": list(diagnosis.causes),
            }
        )
        return
    console = Console(highlight=False, soft_wrap=True)
    colour = "green" if diagnosis.is_proven else "red"
    console.print(f"verdict  [{colour}]{diagnosis.verdict}[/]")
    console.print(f"profile  {escape(diagnosis.profile or 'none matches')}")
    for check in checks:
        console.print(f"{_MARKS[check.ok]}  {check.name}: {escape(check.text)}")
    for cause in diagnosis.causes:
        console.print(f"likely cause: {escape(one_line(cause))}")
