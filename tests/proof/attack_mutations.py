"""Mutations of genuine callbacks, each of which proves nothing any more: pure, from a random generator to bytes.

What the service may take for the same callback is not mutated: the case of hex digits and of header names, the optional
prefix of a signature, white space around a value.
"""

import base64
import gzip
import hashlib
import hmac
import json
import random  # noqa: TID251 - an attack is repeated by its seed
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_SIGNATURE, _SECRET = b"X-BFL-Signature", b"X-Webhook-Secret"
_SIMILAR: tuple[bytes, ...] = (
    b"X-BFL_Signature",
    b"X_BFL_Signature",
    b"X-BFL-Signature-256",
    b"X-Hub-Signature-256",
    b"BFL-Signature",
)
_SIMILAR += (b"Webhook-Signature", b"X-Signature", b"X-Webhook-Signature", b"X-Webhook_Secret", b"Webhook-Secret")
_BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_WORDS = ("Ready", "Error", "Failed", "Request Moderated", "Pending", "SUCCESS", "Task not found", "ready", "")
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """The callback address of a running attempt with the secret that proves its callbacks."""

    attempt_id: bytes
    token: bytes
    secret: bytes
    provider_id: str

    @property
    def path(self) -> bytes:
        return b"/callbacks/%b/%b" % (self.attempt_id, self.token)


@dataclass(frozen=True, slots=True)
class Shot:
    """One request. `alone`: its framing is broken, so it gets a connection of its own, closed behind it."""

    kind: str
    sent: bytes
    alone: bool = False


Mutation = Callable[[random.Random, Target, Target], bytes]


def body_of(rng: random.Random, target: Target, status: str | None = None) -> bytes:
    """Return the body of a callback in one of the forms that the providers use."""
    word = rng.choice(_WORDS) if status is None else status
    result = {"sample": f"https://delivery-eu4.bfl.ai/results/{rng.getrandbits(64):x}/sample.png"}
    forms: tuple[Mapping[str, object], ...] = (
        {"id": target.provider_id, "status": word, "result": result},
        {"task_id": target.provider_id, "status": word, "result": result, "cost": 4.0, "progress": 1.0},
        {"id": target.provider_id, "status": word, "result": None, "details": {"error": "it failed"}},
        {"data": {"id": target.provider_id, "status": word, "outputs": [result["sample"]]}},
    )
    return json.dumps(rng.choice(forms)).encode()


def genuine(target: Target, body: bytes, profile: str) -> bytes:
    """Return a callback that the service accepts, as a provider with this profile sends it."""
    return _request(target.path, _proofs(target, body)[profile], body)


def shoot(rng: random.Random, target: Target, other: Target) -> Shot:
    """Return a mutated callback for an attempt. `other` is another running attempt."""
    kinds = _COMMON if rng.random() < _SHARE_OF_COMMON else _BROKEN
    kind = rng.choice(list(kinds))
    if kind == "too large" and rng.random() > _SHARE_OF_LARGE:
        kind = "cut off"
    return Shot(kind, kinds[kind](rng, target, other), kinds is _BROKEN)


def _proofs(target: Target, body: bytes) -> dict[str, Headers]:
    signature = _signed(target, body)
    return {
        "hmac": [(_SIGNATURE, b"sha256=" + signature)],
        "hmac without prefix": [(_SIGNATURE, signature)],
        "secret": [(_SECRET, target.secret)],
    }


def _signed(target: Target, body: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.new(target.secret, body, algorithm).hexdigest().encode()


def _proof(rng: random.Random, target: Target, body: bytes) -> Headers:
    return rng.choice(list(_proofs(target, body).values()))


def _request(path: bytes, headers: Headers, body: bytes, line: bytes = b"POST %b HTTP/1.1", length: int = -1) -> bytes:
    head = [line % path, b"Host: fluxhook", b"Content-Type: application/json"]
    head += [b"%b: %b" % header for header in headers]
    if not any(name.lower() in {b"content-length", b"transfer-encoding"} for name, _ in headers):
        head.append(b"Content-Length: %d" % (len(body) if length < 0 else length))
    return b"\r\n".join([*head, b"", body])


def _changed(rng: random.Random, text: bytes, alphabet: bytes = _BASE64URL) -> bytes:
    """Return the text with one character changed, removed, added or repeated."""
    place = rng.randrange(len(text))
    choice = bytes([rng.choice([char for char in alphabet if char != text[place]])])
    return rng.choice(
        [
            text[:place] + choice + text[place + 1 :],
            text[:-1],
            text[1:],
            text + choice,
            text[: rng.randrange(len(text))],
            text + text,
        ]
    )


def _wrong_token(rng: random.Random, target: Target, other: Target) -> bytes:
    body = body_of(rng, target)
    wrong = (
        _changed(rng, target.token) or b"-",
        other.token,
        target.token.swapcase(),
        target.token[::-1],
        target.secret,
        b"%00" + target.token,
        target.token + rng.choice([b"%00", b"%20", b"/", b"%2F", b"=", b"%3F", b"%0d%0a"]) + b"x",
        b"..%2f" + target.token,
        b"*",
        base64.b64encode(target.token),
    )
    path = b"/callbacks/%b/%b" % (target.attempt_id, rng.choice(wrong))
    return _request(path, _proof(rng, target, body), body)


def _wrong_attempt(rng: random.Random, target: Target, other: Target) -> bytes:
    body = body_of(rng, target)
    wrong = (other.attempt_id, _changed(rng, target.attempt_id) or b"a", target.attempt_id.upper(), b"0" * 4000, b"%ff")
    path = b"/callbacks/%b/%b" % (rng.choice(wrong), target.token)
    return _request(path, _proof(rng, target, body), body)


def _wrong_signature(rng: random.Random, target: Target, other: Target) -> bytes:
    body = body_of(rng, target)
    right = _signed(target, body)
    raw = bytes.fromhex(right.decode())
    at = b"%d" % rng.randrange(1_700_000_000, 1_900_000_000)
    wrong = (
        b"sha256=" + _changed(rng, right, b"0123456789abcdef"),
        b"sha256=" + _signed(other, body),
        b"sha256=" + _signed(target, body_of(rng, other)),
        b"sha256=" + _signed(target, body + b"\n"),
        b"sha256=" + _signed(target, at + b"." + body),
        b"t=%b,v1=%b" % (at, _signed(target, at + b"." + body)),
        b"v1," + base64.b64encode(raw),
        b"sha256=" + base64.b64encode(raw),
        b"sha1=" + _signed(target, body, "sha1"),
        b"sha512=" + _signed(target, body, "sha512"),
        b"sha256=" + hashlib.sha256(target.secret + body).hexdigest().encode(),
        b"sha256=" + hashlib.sha256(body).hexdigest().encode(),
        b"sha256=sha256=" + right,
        b"SHA256=" + right,
        b"sha256 =" + right,
        b"sha256=" + right + b"," + right,
        b"sha256=" + b"0" * 64,
        b"sha256=" + "\u0660".encode() * 64,
        b"sha256=" + right[:32] + b"\xa0" + right[32:],
        b"sha256=",
        b"",
        target.secret,
    )
    headers = [(_SIGNATURE, rng.choice(wrong))]
    if rng.random() < 0.3:  # a wrong signature never falls back to the secret
        headers.insert(rng.randrange(2), (_SECRET, target.secret))
    return _request(target.path, headers, body)


def _wrong_secret(rng: random.Random, target: Target, other: Target) -> bytes:
    body = body_of(rng, target)
    wrong = (
        _changed(rng, target.secret, b"0123456789abcdef"),
        other.secret,
        target.token,
        target.secret.upper() + b"!",
        b"Bearer " + target.secret,
        target.secret + b"\xa0",
        target.secret[:32] + b"\t" + target.secret[32:],
        b"null",
        b"",
        b"sha256=" + _signed(target, body),
        base64.b64encode(target.secret),
    )
    return _request(target.path, [(_SECRET, rng.choice(wrong))], body)


def _repeated_proof(rng: random.Random, target: Target, other: Target) -> bytes:
    body = body_of(rng, target)
    name, value = rng.choice([*_proofs(target, body).values()])[0]
    second = rng.choice([value, _signed(other, body), other.secret, b""])
    headers = [(name, value), (rng.choice([name, name.lower(), name.upper()]), second)]
    rng.shuffle(headers)
    return _request(target.path, headers, body)


def _changed_body(rng: random.Random, target: Target, other: Target) -> bytes:
    """Return a callback whose signature is that of another body."""
    body = body_of(rng, target)
    place = rng.randrange(len(body))
    packed = gzip.compress(body, mtime=0)
    wrong = (
        body[:place] + bytes([body[place] ^ (1 << rng.randrange(8))]) + body[place + 1 :],
        body[:place],
        body + rng.choice([b" ", b"\n", b"\0", b"{}"]),
        b"\xef\xbb\xbf" + body,
        body.decode().encode("utf-16"),
        body.replace(b'"status"', b'"status": "Ready", "status"', 1),
        body_of(rng, other),
        b" " + body,
        b"[" * rng.randrange(1, 5000),
        packed,
        b"",
    )
    changed = rng.choice(wrong)
    headers = [(_SIGNATURE, b"sha256=" + _signed(target, body))]
    if changed is packed:
        headers.append((b"Content-Encoding", b"gzip"))
    return _request(target.path, headers, changed)


def _other_header(rng: random.Random, target: Target, _other: Target) -> bytes:
    """Return a callback without a proof: it stands where no proof counts."""
    body = body_of(rng, target)
    value = rng.choice([b"sha256=" + _signed(target, body), target.secret])
    name = rng.choice([*_SIMILAR, b"Authorization", b"Cookie", b"X-Key"])
    path = rng.choice([target.path, target.path + b"?secret=" + target.secret, target.path + b"?" + _SIGNATURE + b"=1"])
    return _request(path, [(name, value)], body)


def _other_timestamp(rng: random.Random, target: Target, _other: Target) -> bytes:
    """Return a callback that is signed together with a time, as other senders of webhooks do."""
    body = body_of(rng, target)
    at = b"%d" % rng.choice([0, -1, 2**31, 2**63, 10**30, rng.randrange(1_700_000_000, 1_900_000_000)])
    name = rng.choice([b"X-BFL-Timestamp", b"Webhook-Timestamp", b"X-Webhook-Timestamp", b"Date"])
    signed = rng.choice([at + b"." + body, at + body, b"msg." + at + b"." + body, b"POST" + target.path + body])
    headers = [(name, at), (_SIGNATURE, b"sha256=" + _signed(target, signed))]
    return _request(target.path, headers, body)


def _other_length(rng: random.Random, target: Target, _other: Target) -> bytes:
    """Return a request whose declared body is not the signed one."""
    body = body_of(rng, target)
    length = rng.choice([len(body) + rng.randrange(1, 99), rng.randrange(len(body)), 2**31, 2**64 + 1, 10**30])
    headers = [(_SIGNATURE, b"sha256=" + _signed(target, body))]
    return _request(target.path, headers, body, length=length)


def _two_readings(rng: random.Random, target: Target, other: Target) -> bytes:
    """Return a request with two framings; it is signed for the one that must not count."""
    body = body_of(rng, target)
    inner = body_of(rng, other)
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    coding = rng.choice([b"chunked", b"Chunked", b"identity, chunked", b"xchunked", b" chunked", b"chunked\x0b"])
    framing = [
        [(b"Content-Length", b"%d" % len(chunked)), (b"Transfer-Encoding", coding)],
        [(b"Transfer-Encoding", coding), (b"Content-Length", b"%d" % len(chunked))],
        [(b"Content-Length", b"%d" % len(body)), (b"Content-Length", b"%d" % len(chunked))],
        [(b"Content-Length", rng.choice([b"+1", b"-1", b"0x10", b"1e3", b"1 1", b"1,1", b"\xb2"]))],
        [(b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", rng.choice([b"identity", b"gzip", b"chunked"]))],
    ]
    wrong = rng.choice([_signed(target, chunked + b"x"), _signed(target, body), _signed(other, inner)])
    return _request(target.path, [(_SIGNATURE, wrong), *rng.choice(framing)], chunked)


def _bad_chunks(rng: random.Random, target: Target, other: Target) -> bytes:
    body = body_of(rng, target)
    size = rng.choice(
        [b"%x" % (len(body) + 5), b"-1", b"ffffffffffffffff", b"g", b"", b"0x5", b"%x;" % len(body) + b"a" * 9000]
    )
    chunks = rng.choice([b"%b\r\n%b\r\n0\r\n\r\n", b"%b\n%b\n0\n\n", b"%b\r\n%b0\r\n\r\n", b"%b\r\n%b\r\n"]) % (
        size,
        body,
    )
    wrong = rng.choice([_signed(other, body), _signed(target, body + b"x"), _signed(target, chunks)])
    return _request(target.path, [(_SIGNATURE, wrong), (b"Transfer-Encoding", b"chunked")], chunks)


def _bad_head(rng: random.Random, target: Target, _other: Target) -> bytes:
    body = body_of(rng, target)
    proof = b"%b: sha256=%b" % (_SIGNATURE, _signed(target, body))
    length = b"Content-Length: %d" % len(body)
    path = target.path
    heads = (
        b"POST %b HTTP/1.1\r\n%b\r\n%b : %b\r\n\r\n" % (path, length, _SIGNATURE, _signed(target, body)),
        b"POST %b HTTP/1.1\r\n%b\r\nA: b\r\n %b\r\n\r\n" % (path, length, proof),
        b"POST %b HTTP/1.1\r\n%b\r\nA: b\0\r\n%b\0\r\n\r\n" % (path, length, proof),
        b"POST %b HTTP/9.9\r\n%b\r\n%b\0\r\n\r\n" % (path, length, proof),
        b"POST %b\r\n%b\r\n%b\r\n\r\n" % (path, length, proof),
        b"post %b HTTP/1.1\r\n%b\r\n%b\r\n\r\n" % (path, length, proof),
        b"POST %b%b HTTP/1.1\r\n%b\r\n%b\r\n\r\n" % (path, b"A" * rng.randrange(9_000, 90_000), length, proof),
        b"POST %b HTTP/1.1\r\n%b\r\n%b\r\n%b\r\n\r\n" % (path, length, b"A: b\r\n" * rng.randrange(101, 300), proof),
        b"\r\n\0POST %b HTTP/1.1\r\n%b\r\n%b\r\n\r\n" % (path, length, proof),
        b"\x16\x03\x01\x02\x00" + rng.randbytes(60),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(30),
        rng.randbytes(rng.randrange(1, 300)),
    )
    return rng.choice(heads) + body


def _other_method(rng: random.Random, target: Target, _other: Target) -> bytes:
    body = body_of(rng, target)
    method = rng.choice([b"GET", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"HEAD", b"TRACE", b"MOVE", b"CONNECT"])
    headers = [*_proof(rng, target, body), (b"X-HTTP-Method-Override", b"POST")]
    return _request(target.path, headers, body, method + b" %b HTTP/1.1")


def _cut_off(rng: random.Random, target: Target, _other: Target) -> bytes:
    """Return a genuine callback whose last bytes never arrive."""
    body = body_of(rng, target)
    whole = _request(target.path, _proof(rng, target, body), body)
    return whole[: rng.randrange(1, len(whole))]


def _too_large(rng: random.Random, target: Target, _other: Target) -> bytes:
    body = body_of(rng, target) + b" " * (1024 * 1024 + 1)
    return _request(target.path, _proof(rng, target, body), body)


_COMMON: dict[str, Mutation] = {
    "wrong token": _wrong_token,
    "wrong attempt": _wrong_attempt,
    "wrong signature": _wrong_signature,
    "wrong secret": _wrong_secret,
    "repeated proof": _repeated_proof,
    "changed body": _changed_body,
    "signed with a time": _other_timestamp,
}
_BROKEN: dict[str, Mutation] = {
    "proof in another header": _other_header,
    "other length": _other_length,
    "two readings": _two_readings,
    "bad chunks": _bad_chunks,
    "bad head": _bad_head,
    "other method": _other_method,
    "cut off": _cut_off,
    "too large": _too_large,
}
_SHARE_OF_COMMON = 0.9
_SHARE_OF_LARGE = 0.05  # of those that may be: each is a MiB
KINDS = (*_COMMON, *_BROKEN)
