"""`verify-callback`: which profile matches a captured callback, which check fails, and the likely cause."""

import base64
import hmac
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.cli import commands
from app.cli.verifying.captured import Captured, NotReadable, from_curl
from app.security.diagnosis import Candidate, diagnose
from app.security.keyring import KeyRing
from app.security.sign import bfl_signature
from tests.cli.test_commands import Terminal, terminal

__all__ = ["terminal"]

SECRET = "s" * 64
BODY = b'{"id": "1", "status": "Ready", "result": {"sample": "https://x.bfl.ai/a.png", "prompt": "caf\xc3\xa9"}}'
FIELD_BODY = b'{"task_id": "1", "status": "SUCCESS", "progress": 100}'
RING = "k" * 40


def verify(tmp_path: Path, headers: list[tuple[str, str]], body: bytes, *arguments: str, **env: str) -> Result:
    (tmp_path / "headers").write_text("".join(f"{name}: {value}\n" for name, value in headers))
    (tmp_path / "body").write_bytes(body)
    files = ["--headers", str(tmp_path / "headers"), "--body", str(tmp_path / "body")]
    given = {"FLUXHOOK_DATA_DIR": str(tmp_path / "no"), **env}
    return CliRunner().invoke(commands("verify-callback"), ["verify-callback", *files, *arguments], env=given)


def verdict(headers: list[tuple[str, str]], body: bytes = BODY) -> tuple[str, str | None, str]:
    pairs = tuple((name.encode(), value.encode()) for name, value in headers)
    others = [Candidate("the secret of attempt sub_2", "o" * 64)]
    found = diagnose(Captured(pairs, body), Candidate("the given secret", SECRET), others)
    return found.verdict.value, found.profile and found.profile[0], "; ".join(found.causes)


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ([("X-BFL-Signature", bfl_signature(SECRET, BODY))], BODY, ("signed", "a")),
        ([("x-webhook-secret", SECRET)], BODY, ("shared_secret", "b")),
        ([("x-webhook-secret", SECRET)], FIELD_BODY, ("shared_secret", "c")),
    ],
    ids=["a", "b", "c"],
)
def test_a_proven_callback_has_a_profile_and_no_cause(
    headers: list[tuple[str, str]], body: bytes, expected: tuple[str, str]
) -> None:
    assert verdict(headers, body) == (*expected, "")


def rewritten(**options: Any) -> bytes:
    return json.dumps(json.loads(BODY), **options).encode()


@pytest.mark.parametrize(
    ("original", "cause"),
    [
        (BODY + b"\n", "the line end at its end was removed"),
        (b"\xef\xbb\xbf", None),
        (rewritten(separators=(",", ":")), "its JSON was parsed and written again; it came without spaces"),
        (
            rewritten(sort_keys=True),
            "its JSON was parsed and written again; it came with spaces after commas and colons",
        ),
        (rewritten(indent=2), "its JSON was written again; it came indented by 2"),
        (BODY.decode().encode("latin-1"), "it was read as Latin-1 and written as UTF-8"),
    ],
    ids=["line end", "another body", "spaces", "sorted", "indented", "charset"],
)
def test_a_signature_over_other_bytes_names_what_was_done_to_the_body(original: bytes, cause: str | None) -> None:
    judged = verdict([("x-bfl-signature", bfl_signature(SECRET, original))])

    assert judged[:2] == ("forged", None)
    assert (cause or "either the body was changed on the way, or it was signed with another secret") in judged[2]


@pytest.mark.parametrize(
    ("headers", "cause"),
    [
        (
            [("x-bfl-signature", bfl_signature("o" * 64, BODY))],
            "the signature with the secret of attempt sub_2, not with",
        ),
        ([("x-webhook-secret", "o" * 64)], "it is the secret of attempt sub_2, not the given secret"),
        ([("x-webhook-secret", "n" * 64)], "the secret of another attempt or of another installation"),
        ([("x-webhook-secret", f'"{SECRET}"')], "the secret was changed on the way: quotes"),
        ([("x-webhook-secret", SECRET[:40])], "cut off after 40 characters"),
        ([("x-webhook-secret", SECRET)] * 2, "is there 2 times with one value: a proxy adds it again"),
        ([("x-webhook-secret", f"{SECRET}, {SECRET}")], "a proxy joined both with a comma"),
        ([("x-bfl-signature", "sha256=abc")], "not 64 hex digits but 3 characters"),
        (
            [("x-bfl-signature", "sha256=" + base64.b64encode(hmac.digest(SECRET.encode(), BODY, "sha256")).decode())],
            "it is the HMAC-SHA256 of the body in base64 after `sha256=`, which Fluxhook does not accept",
        ),
        (
            [("x-webhook-secret", SECRET), ("x-bfl-signature", "sha256=" + "0" * 64)],
            "the secret in X-Webhook-Secret is right, but a signature that is there must be right too",
        ),
        ([("x_webhook_secret", SECRET)], "the header's name has underscores"),
        ([("x-hook-token", SECRET)], "the header x-hook-token has the secret itself: a proxy renamed it"),
        ([], "no header proves it: the provider sends a proof only for a task with a webhook_secret"),
        ([("content-length", "7")], "Content-Length is 7, but the body has "),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_failed_proof_has_a_likely_cause(headers: list[tuple[str, str]], cause: str) -> None:
    judged = verdict(headers)

    assert judged[0] in {"forged", "unproven"}
    assert cause in judged[2]
    assert SECRET not in judged[2]


def test_the_secret_comes_from_a_file_or_a_variable(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    headers = [("X-Webhook-Secret", SECRET)]
    by_file = verify(tmp_path, headers, BODY, "--secret-file", str(tmp_path / "secret"))
    by_variable = verify(tmp_path, headers, BODY, "--json", FLUXHOOK_CALLBACK_SECRET=SECRET)
    without = verify(tmp_path, headers, BODY)

    assert (by_file.exit_code, by_variable.exit_code, without.exit_code) == (0, 0, 1)
    assert "verdict  shared_secret" in by_file.stdout
    assert json.loads(by_variable.stdout)["profile"].startswith("b: ")
    assert "no secret to verify with: give --secret-file" in without.stderr
    assert not (tmp_path / "no").exists()


def test_the_address_names_the_attempt_whose_secret_the_secret_keys_derive(tmp_path: Path) -> None:
    ring = KeyRing((RING,))
    proof, other = (ring.callback_proof(attempt, ring.newest) for attempt in ("sub_1", "sub_2"))
    address = ("--callback-url", f"https://hooks.example.com/callbacks/sub_1/{proof.token}")
    right = verify(tmp_path, [("x-webhook-secret", proof.secret)], BODY, *address, FLUXHOOK_SECRET_KEYS=RING)
    mixed = verify(
        *(tmp_path, [("x-webhook-secret", other.secret)], BODY, *address, "--attempt", "sub_2"),
        FLUXHOOK_SECRET_KEYS=RING,
    )
    foreign = verify(tmp_path, [("x-webhook-secret", proof.secret)], BODY, *address, FLUXHOOK_SECRET_KEYS="z" * 40)
    old = verify(
        *(tmp_path, [("x-webhook-secret", proof.secret)], BODY, *address),
        FLUXHOOK_SECRET_KEYS=f"{'z' * 40},{RING}",
    )

    assert right.exit_code == 0, right.output
    assert "address: its token is that of attempt sub_1" in right.stdout
    assert "it is the secret of attempt sub_2, not the secret of attempt sub_1" in mixed.stdout
    assert "address: its token is not one of this installation" in foreign.stdout
    assert "fits the secret of attempt sub_1, made with an older secret key" in old.stdout
    assert [done.exit_code for done in (mixed, foreign, old)] == [1, 1, 0]
    assert proof.token not in right.output + mixed.output + foreign.output


def test_a_pasted_curl_command_is_read_as_a_shell_reads_it(tmp_path: Path) -> None:
    signature = bfl_signature(SECRET, b'{"status": "it\'s \xc3\xa9\\n"}')
    command = (
        "curl -X POST 'https://h.example/callbacks/sub_1/token?x=1' \\\n"
        f" -H 'X-BFL-Signature: {signature}' --header=content-type:application/json \\\n"
        """ --data-raw $'{"status": "it\\'s \\u00e9\\\\n"}' --compressed"""
    )
    (tmp_path / "curl").write_text(command)
    body = tmp_path / "body.json"
    body.write_bytes(BODY)
    done = CliRunner().invoke(
        commands("verify-callback"),
        ["verify-callback", "--curl", str(tmp_path / "curl")],
        env={"FLUXHOOK_CALLBACK_SECRET": SECRET},
    )
    typed = CliRunner().invoke(
        commands("verify-callback"),
        ["verify-callback", "--curl", "-"],
        input=f"curl https://h.example -H'x-webhook-secret: {SECRET}' --data-binary @{shlex.quote(str(body))}",
        env={"FLUXHOOK_CALLBACK_SECRET": SECRET},
    )

    assert (done.exit_code, typed.exit_code) == (0, 0), done.output + typed.output
    assert "profile  a: " in done.stdout
    assert from_curl(command).address == ("sub_1", "token")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("wget https://h", "does not begin with curl"),
        ("curl 'https://h", "cannot be read: No closing quotation"),
        ("curl -H", "ends after -H"),
        ("curl -H nonsense", "is not `Name: value`"),
        ("curl -d @/nowhere", "/nowhere, which the curl command names, cannot be read"),
    ],
)
def test_a_curl_command_that_cannot_be_read_is_explained(command: str, reason: str) -> None:
    with pytest.raises(NotReadable, match=reason):
        from_curl(command)


async def test_the_attempts_of_a_task_are_taken_from_the_service(terminal: Terminal, tmp_path: Path) -> None:
    task_id = (await terminal.run("submit", "a fox", "--wait")).stdout.strip()
    timeline = json.loads((await terminal.run("show", task_id, "--json")).stdout)["timeline"]
    (attempt,) = [entry["submission_id"] for entry in timeline["entries"] if entry["event"] == "submission"]
    ring = KeyRing(((terminal.folder / "data" / "secret_keys").read_text().strip(),))
    secret = ring.callback_proof(attempt, ring.newest).secret
    (tmp_path / "headers").write_text(json.dumps({"x-webhook-secret": secret}))
    (tmp_path / "body").write_bytes(BODY)
    files = ("--headers", str(tmp_path / "headers"), "--body", str(tmp_path / "body"))
    done = await terminal.run("verify-callback", *files, "--task", task_id)

    assert done.exit_code == 0, done.output
    assert f"fits the secret of attempt {attempt}" in done.stdout
    assert secret not in done.stdout
