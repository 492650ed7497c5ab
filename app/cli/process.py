"""Tuning of a process that serves or works: the HTTP server, garbage collection and memory."""

import asyncio
import ctypes
import gc
import os
import socket
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from types import FrameType

import uvicorn

from app.telemetry import logs
from app.web.limits import DEFAULT_LIMITS, Limits
from app.web.protocol import Protocol, resources_of

# Seconds that a stopping server gives to requests in progress before it closes their connections.
_GRACE_S = 8
# Seconds after which a process that was asked to stop ends in any case. Containers are killed after 15 s.
_EXIT_S = 12.0
_ACCEPTED_AT_ONCE = 16  # connections in one iteration of the event loop
_SWITCH_S = 0.0005
_WARM_S, _LONGER = 60.0, 4
# A full collection follows this many of the middle generation, 10 by default: with the objects of 200 requests in
# progress it stops every thread for 100 ms.
_FULL_COLLECTIONS = 50
_M_MMAP_THRESHOLD = -3  # the name in glibc's malloc.h
_LARGE_BYTES = 512 * 1024  # the pieces of a body or a file have up to 256 KB

log = logs.get("process")

IpNetwork = IPv4Network | IPv6Network


class Server(uvicorn.Server):
    """uvicorn's server, except that a requested stop ends with exit code 0 instead of with the signal."""

    on_listening: Callable[[int], None] | None = None  # called with the port
    owns_process = False  # whether the process ends with the server, so that a stop that hangs may end it

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        await self._accept_faster()
        freeze_lasting_objects()
        if self.on_listening is not None:
            self.on_listening(self.servers[0].sockets[0].getsockname()[1])

    async def _accept_faster(self) -> None:
        """Listen on copies of each socket: uvloop accepts one connection of a socket in each iteration of the loop.

        An iteration takes 30 ms if the process is busy, and a hundred new connections would wait for seconds.
        """
        loop = asyncio.get_running_loop()

        def make() -> asyncio.Protocol:
            return self.config.http_protocol_class(  # type: ignore[call-arg] # as uvicorn calls it
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )

        for listening in [each for server in self.servers for each in server.sockets]:
            for _ in range(_ACCEPTED_AT_ONCE - 1):
                copy = socket.fromfd(listening.fileno(), listening.family, listening.type)
                self.servers.append(await loop.create_server(make, sock=copy, backlog=self.config.backlog))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signal the worker and the requests that wait for a task at once, not after the last connection closes."""
        super().handle_exit(sig, frame)
        if self.owns_process:
            exit_in_time()
        use = resources_of(self.config.app)
        if use is not None:
            asyncio.get_running_loop().call_soon_threadsafe(use.stopping.set)


def server(
    app: object, host: str, port: int, limits: Limits = DEFAULT_LIMITS, trusted_proxies: Sequence[IpNetwork] = ()
) -> Server:
    """Return a server without uvicorn's own logs and without WebSockets: both write addresses that contain tokens.

    The address and the scheme of a client come from `X-Forwarded-` headers only if one of `trusted_proxies` sent them.
    """
    return Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]
            host=host,
            port=port,
            access_log=False,
            log_config=None,
            http=partial(Protocol, limits=limits),  # type: ignore[arg-type] # it is called like a class
            timeout_keep_alive=limits.idle_s,
            ws="none",
            server_header=False,
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=[str(network) for network in trusted_proxies],  # without it, a variable would count
            timeout_graceful_shutdown=_GRACE_S,
        )
    )


def exit_in_time(seconds: float = _EXIT_S) -> None:
    """End this process with code 1 if it still runs after this time, whatever it waits for.

    Nothing is lost: what a process leaves is continued as after a crash.
    """

    def end() -> None:
        log.error("stop_took_too_long", seconds=seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def open_files_allowed() -> int | None:
    """Raise the number of files that this process may open as far as the system allows, and return it."""
    try:
        import resource  # noqa: PLC0415 - not on every operating system
    except ImportError:
        return None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def freeze_lasting_objects(again_s: float = _WARM_S) -> None:
    """Exclude all objects that exist after the start from garbage collection: most live as long as the process.

    With them, a full collection stops every thread for 100 ms or more. The first requests make others that last, such
    as compiled statements, so this is repeated after `again_s` seconds, and then at ever longer intervals. What was in
    use only by chance is still freed, unless it is a cycle. Call it on the event loop.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], _FULL_COLLECTIONS)
    asyncio.get_running_loop().call_later(again_s, freeze_lasting_objects, _LONGER * again_s)


def switch_threads_often() -> None:
    """Let a request wait for half a millisecond at most while a thread reads a large body, instead of for five.

    The event loop needs the interpreter's lock many times for each request, and each time waits for its turn.
    """
    sys.setswitchinterval(_SWITCH_S)


def give_back_large_blocks() -> None:
    """Return memory of large objects, such as decoded images, to the system as soon as it is freed.

    By default, glibc raises its threshold for large blocks when one is freed, and keeps such blocks in per-thread
    heaps from then on. The pieces of a body stay below the threshold: the system clears every page that it hands out.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
