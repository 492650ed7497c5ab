"""Servers that speak as clouds do, each in a process of its own, and the way to a bucket on them."""

import os
import select
import socket
import socketserver
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from threading import Thread
from urllib.parse import urlsplit

from tests.sockets import free_address
from tests.store import clouds

SCHEMES = ["s3", "gs", "az"]


@contextmanager
def serving(*command: str, **environment: str) -> Generator[str]:
    """Start a server in its own process, with the port as last argument, and yield its address."""
    port = int(free_address().rpartition(":")[2])
    with subprocess.Popen(  # noqa: S603
        [sys.executable, *command, str(port)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
        server.terminate()


def wait_for(port: int) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def variables(scheme: str, address: str) -> dict[str, str]:
    """The environment variables with which the cloud's own tools find and open a bucket."""
    return {
        "s3": {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address,
        },
        "gs": {"GOOGLE_BASE_URL": address, "GOOGLE_BEARER_TOKEN": clouds.TOKEN},
        "az": {
            "AZURE_STORAGE_ACCOUNT_NAME": clouds.ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": clouds.KEY,
            "AZURE_STORAGE_ENDPOINT": f"{address}/{clouds.ACCOUNT}",
        },
    }[scheme]


class _Way(socketserver.ThreadingTCPServer):
    """Forward bytes in both directions until `left` is used up, then nothing more."""

    left: int
    target: tuple[str, int | None]


class _Passing(socketserver.BaseRequestHandler):
    server: _Way

    def handle(self) -> None:
        with suppress(OSError), socket.create_connection(self.server.target) as theirs:
            across = {self.request: theirs, theirs: self.request}
            while self.server.left > 0:
                for end in select.select(list(across), [], [], 0.02)[0]:
                    piece = end.recv(65536)
                    if not piece:
                        return
                    self.server.left -= len(piece)
                    across[end].sendall(piece)


@contextmanager
def cutting(address: str, after: int) -> Generator[str]:
    """A proxy to a server that stops for good after this many bytes."""
    with _Way(("127.0.0.1", 0), _Passing) as way:
        way.left, way.target = after, ("127.0.0.1", urlsplit(address).port)
        passing = Thread(target=way.serve_forever, args=(0.02,))
        passing.start()
        try:
            yield f"http://127.0.0.1:{way.server_address[1]}"
        finally:
            way.left = 0
            way.shutdown()
            passing.join()
