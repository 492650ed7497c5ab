"""The likely causes of a callback that proves nothing, and which of its checks fail. Pure."""

import hmac
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from app.security import body_variants, callback_proofs
from app.security.verify import SigningProfile, Verdict, verify

PROFILE = SigningProfile()
_HEX = re.compile(rb"[0-9a-fA-F]{64}")
_PROVEN = frozenset({Verdict.SIGNED, Verdict.SHARED_SECRET})

# Headers that a proxy adds.
_OF_PROXIES = frozenset({b"content-encoding", b"via", b"x-forwarded-for", b"cf-ray"})


@dataclass(frozen=True, slots=True)
class Received:
    """A callback as it arrived, or as it is stored."""

    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A secret that may belong to the callback, and whose it is."""

    whose: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `ok` is None if it is neither right nor wrong."""

    name: str
    ok: bool | None
    text: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The verdict with the expected secret, the provider's profile if one matches, the checks and likely causes."""

    verdict: Verdict
    profile: str | None
    checks: Sequence[Check]
    causes: Sequence[str]

    @property
    def is_proven(self) -> bool:
        return self.verdict in _PROVEN


def diagnose(received: Received, expected: Candidate, others: Sequence[Candidate] = ()) -> Diagnosis:
    """Judge a callback as the service does, with the expected secret; `others` only explain a failure."""
    verdict = verify(received.body, received.headers, expected.secret, PROFILE)
    checks = [*_headers(received, expected), _body(received.body)]
    causes = [] if verdict in _PROVEN else causes_of(received, expected, others)
    return Diagnosis(verdict, _profile(received.body, verdict), checks, causes)


def _profile(body: bytes, verdict: Verdict) -> str | None:
    """Return the profile of the provider, as the twin names them."""
    members = _members(body)
    has_field_form = "task_id" in members and "id" not in members
    match verdict:
        case Verdict.SIGNED:
            return "a: an HMAC of the body in X-BFL-Signature"
        case Verdict.SHARED_SECRET if has_field_form:
            return "c: the secret in X-Webhook-Secret, and a body with task_id"
        case Verdict.SHARED_SECRET:
            return "b: the secret in X-Webhook-Secret, and a body with id"
    return None


def _headers(received: Received, expected: Candidate) -> Iterator[Check]:
    for header, is_right in ((PROFILE.signature_header, _signature_fits), (PROFILE.secret_header, _secret_fits)):
        name, values = _shown(header), _values(received, header)
        if not values:
            yield Check(name, None, "not there")
        elif len(values) > 1:
            yield Check(name, False, f"there {len(values)} times, so it proves nothing")
        elif is_right(values[0], received.body, expected.secret):
            yield Check(name, True, f"fits {expected.whose}")
        else:
            yield Check(name, False, f"does not fit {expected.whose}")


def _body(body: bytes) -> Check:
    if not body:
        return Check("body", False, "empty")
    members = _members(body)
    if not members:
        return Check("body", False, f"{len(body)} bytes that are not a JSON object")
    says = members.get("status")
    status = f", status {says}" if isinstance(says, str) and says.isprintable() and len(says) <= 40 else ""  # noqa: PLR2004
    return Check("body", True, f"{len(body)} bytes of JSON{status}")


def causes_of(received: Received, expected: Candidate, others: Sequence[Candidate] = ()) -> list[str]:
    """Return the likely causes of a callback that is not proven with the expected secret, the likeliest first."""
    return list(dict.fromkeys(_causes(received, expected, others)))


def _causes(received: Received, expected: Candidate, others: Sequence[Candidate]) -> Iterator[str]:
    signatures, secrets = (_values(received, name) for name in (PROFILE.signature_header, PROFILE.secret_header))
    for header, values in ((PROFILE.signature_header, signatures), (PROFILE.secret_header, secrets)):
        if len(values) > 1:
            same = "with one value" if len(set(values)) == 1 else "with different values"
            times = f"{len(values)} times {same}"
            yield f"{_shown(header)} is there {times}: a proxy adds it again, or a client sets it twice"
    if len(signatures) == 1:
        if len(secrets) == 1 and _secret_fits(secrets[0], received.body, expected.secret):
            yield "the secret in X-Webhook-Secret is right, but a signature that is there must be right too"
        yield from _wrong_signature(signatures[0], received, expected, others)
        yield from _proxies(received)
    elif len(secrets) == 1 and not signatures:
        yield from _wrong_secret(secrets[0], received, expected, others)
    elif not signatures and not secrets:
        yield from _missing(received, expected)
    yield from _length(received)


def _wrong_signature(
    value: bytes, received: Received, expected: Candidate, others: Sequence[Candidate]
) -> Iterator[str]:
    cleaned = value.strip(b" \t\"'")
    text = cleaned.removeprefix(b"sha256=")
    if cleaned != value:
        yield "the signature has quotes or spaces around it: something on the way rewrote the header"
    if b"," in text and len({part.strip() for part in text.split(b",")}) == 1:
        yield "the header came twice, and a proxy joined both with a comma"
    for other in others:
        if _signature_fits(value, received.body, other.secret):
            yield f"it is the signature with {other.whose}, not with {expected.whose}"
            return
    for whose in (expected, *others):
        for what, original in body_variants.of(received.body):
            if _signature_fits(cleaned, original, whose.secret):
                suffix = "" if whose is expected else f"; and it was signed with {whose.whose}"
                yield f"the body was changed: {what}{suffix}"
                return
    for proof in callback_proofs.find(received.body, [(b"signature", cleaned)], expected.secret):
        yield f"it is {proof.form}, which Fluxhook does not accept as a signature"
        return
    if not _HEX.fullmatch(text):
        yield f"it is not 64 hex digits but {len(text)} characters: it was cut off, or it is another scheme"
    else:
        yield f"either the body was changed on the way, or it was signed with another secret than {expected.whose}"


def _proxies(received: Received) -> Iterator[str]:
    passed = sorted({name.lower() for name, _ in received.headers} & _OF_PROXIES)
    if passed:
        yield f"it came through a proxy ({b', '.join(passed).decode()}), which may have changed it"


def _wrong_secret(value: bytes, received: Received, expected: Candidate, others: Sequence[Candidate]) -> Iterator[str]:
    for other in others:
        if _secret_fits(value, received.body, other.secret):
            yield f"it is {other.whose}, not {expected.whose}"
            return
    cleaned = value.strip(b" \t\"'")
    decoded = unquote(cleaned.decode("latin-1")).encode("latin-1", "replace")
    secret = expected.secret.encode()
    if b"," in cleaned and {part.strip() for part in cleaned.split(b",")} == {secret}:
        yield "the header came twice, and a proxy joined both with a comma"
    elif secret in {cleaned, decoded} or secret.lower() == cleaned.lower():
        yield "the secret was changed on the way: quotes, spaces, percent-encoding or upper case"
    elif cleaned and secret.startswith(cleaned):
        yield f"the secret was cut off after {len(cleaned)} characters"
    elif cleaned in {b"[secret]", b"[redacted]"}:
        yield "the secret was replaced before the callback was stored: capture the callback as it arrives"
    elif callback_proofs.find(received.body, [(b"secret", cleaned)], expected.secret):
        yield "the header has a signature of the body instead of the secret"
    else:
        yield (
            "it is the secret of another attempt or of another installation, or the callback is forged: "
            "name attempts with --attempt or --task, and check FLUXHOOK_SECRET_KEYS"
        )


def _missing(received: Received, expected: Candidate) -> Iterator[str]:
    names = {name.lower().replace(b"_", b"-") for name, _ in received.headers if b"_" in name}
    if names & {PROFILE.signature_header, PROFILE.secret_header}:
        yield "the header's name has underscores: a framework changed it, so give the name as it came"
    proofs = callback_proofs.find(received.body, received.headers, expected.secret)
    for proof in proofs:
        yield f"the header {proof.header} has {proof.form}: a proxy renamed it, or the provider's form is new"
    if not proofs:
        yield (
            "no header proves it: the provider sends a proof only for a task with a webhook_secret, "
            "and a proxy may drop headers that it does not know"
        )


def _length(received: Received) -> Iterator[str]:
    for value in _values(received, b"content-length"):
        if value.isdigit() and int(value[:20]) != len(received.body):
            lengths = f"Content-Length is {int(value[:20])}, but the body has {len(received.body)} bytes"
            yield f"{lengths}: it was changed or cut off"
    for value in _values(received, b"content-encoding"):
        if value.lower() != b"identity":
            yield f"Content-Encoding is {value.decode('latin-1')}: the proof is about the bytes before decompression"


def _values(received: Received, header: bytes) -> list[bytes]:
    return [value for name, value in received.headers if name.lower() == header]


def _signature_fits(value: bytes, body: bytes, secret: str) -> bool:
    return verify(body, [(PROFILE.signature_header, value)], secret, PROFILE) is Verdict.SIGNED


def _secret_fits(value: bytes, _body: bytes, secret: str) -> bool:
    return bool(secret) and hmac.compare_digest(value, secret.encode())


def _members(body: bytes) -> dict[str, object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _shown(header: bytes) -> str:
    return {b"x-bfl-signature": "X-BFL-Signature"}.get(header, header.decode().title())
