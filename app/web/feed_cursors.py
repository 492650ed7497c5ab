"""Cursors of the feed: its positions as texts that tell nothing about the events of other applications.

A position counts the events, and on PostgreSQL the transactions, of all applications. It is encrypted as one block of
AES. The id of an event is always the same text; a cursor that is no id has a salt, so that two of them do not show
whether anything happened in between. A text has the form that positions had before they were encrypted, so that a
process of an earlier version answers with `events_gone`; an unencrypted one is answered so here.
"""

import re
from functools import lru_cache

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from app import ids
from app.db.engine.feed_order import Position
from app.security.keyring import KeyRing

_FORM = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{1,16})")
_LARGEST = 2**63 - 1  # of each half of a text
_HALF = 64  # bits
# The bits of the halves of a block: zero, salt, transaction; and zeros that are checked, sequence.
_SALT_BITS, _XID_BITS, _SEQUENCE_BITS = 15, 48, 46
_PURPOSE = "feed"


def event_id(ring: KeyRing, position: Position) -> str:
    """Return the id of the event at this position."""
    return _text(ring, position, 0)


def cursor(ring: KeyRing, position: Position) -> str:
    """Return a text that continues after this position, another one each time."""
    return _text(ring, position, 1 + int.from_bytes(ids.nonce()) % (2**_SALT_BITS - 1))


def is_cursor(text: str) -> bool:
    """Whether a text has the form of a cursor."""
    match = _FORM.fullmatch(text)
    return match is not None and max(int(part, 16) for part in match.groups()) <= _LARGEST


def position_of(ring: KeyRing, text: str) -> Position | None:
    """Return the position of a cursor or an event's id; None if no key of the ring has made it."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    given = tuple(int(part, 16) for part in match.groups())
    for cipher in _ciphers(ring):
        first, second = _walk(cipher, *given, encrypts=False)
        if not second >> _SEQUENCE_BITS:
            return Position(first & (2**_XID_BITS - 1), second)
    return None


def _text(ring: KeyRing, position: Position, salt: int) -> str:
    first = salt << _XID_BITS | position.xid
    first, second = _walk(_ciphers(ring)[0], first, position.sequence, encrypts=True)
    return f"{first:x}-{second:x}"


def _walk(cipher: "Cipher[modes.ECB]", first: int, second: int, *, encrypts: bool) -> tuple[int, int]:
    """Encrypt or decrypt a block, again until both of its halves have their highest bit clear (cycle walking)."""
    context = cipher.encryptor() if encrypts else cipher.decryptor()
    while True:
        block = context.update((first << _HALF | second).to_bytes(2 * _HALF // 8))
        first, second = int.from_bytes(block[:8]), int.from_bytes(block[8:])
        if max(first, second) <= _LARGEST:
            return first, second


@lru_cache(maxsize=16)
def _ciphers(ring: KeyRing) -> "tuple[Cipher[modes.ECB], ...]":
    """Return the ciphers of a ring, newest first."""
    one_block = modes.ECB()  # noqa: S305 - a block is a whole message, and no other is chained to it
    return tuple(Cipher(algorithms.AES(key), one_block) for key in ring.cipher_keys(_PURPOSE))
