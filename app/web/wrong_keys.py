"""Wrong API keys are answered slowly, for each network address. A valid key is never delayed.

A wrong key that is sent again and again, as by a client with an old key, counts once.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from app.errors import TooManyWrongKeys

_FREE = 20  # different wrong keys in a minute that one address may send without a delay
_WINDOW_S = 60.0
_DELAY_S = 1.0
_MOST_WAITING = 8  # delayed answers of one address; further ones are refused at once
_MOST_ADDRESSES = 10_000


@dataclass
class _Seen:
    since: float
    keys: set[int] = field(default_factory=set)  # hashes, `_FREE` at most
    waiting: int = 0


class WrongKeys:
    def __init__(self) -> None:
        self._addresses: OrderedDict[str, _Seen] = OrderedDict()

    async def refuse(self, address: str, digest: str) -> None:
        """Count a wrong key, and wait if the address has sent too many. Raises TooManyWrongKeys."""
        now = asyncio.get_running_loop().time()
        seen = self._addresses.get(address)
        if seen is None or (now - seen.since >= _WINDOW_S and not seen.waiting):
            seen = self._addresses[address] = _Seen(now)
        self._addresses.move_to_end(address)
        while len(self._addresses) > _MOST_ADDRESSES:
            self._addresses.popitem(last=False)
        key = hash(digest)
        if key in seen.keys or len(seen.keys) < _FREE:
            seen.keys.add(key)
            return
        if seen.waiting >= _MOST_WAITING:
            raise TooManyWrongKeys("this address has sent too many different wrong API keys")
        seen.waiting += 1
        try:
            await asyncio.sleep(_DELAY_S)
        finally:
            seen.waiting -= 1
