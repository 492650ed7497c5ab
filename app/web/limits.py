"""The limits of a server's connections."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one server.

    `stall_s` is a credit: it runs down while the server waits for the client, and each `bytes_per_s` bytes of a body
    restore one second of it. So a body may pause for `stall_s`, and must arrive at that rate on average.
    """

    connections: int = 1000
    head_bytes: int = 16 * 1024
    headers: int = 100
    head_s: float = 15  # for a complete head, and for the first byte of a new connection
    stall_s: float = 30
    bytes_per_s: int = 16 * 1024
    idle_s: int = 75  # between requests; longer than proxies keep a connection, so that they close it first
    tick_s: float = 1.0


DEFAULT_LIMITS = Limits()
