"""Clients that try to exhaust the memory of the API: an endless head, and uploads that are held open."""

import socket
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Semaphore

from containers.commands import env, fail
from containers.service import ADMIN_KEY

MB = 1024 * 1024
_UPLOAD = 80 * MB
_PART = b'--b\r\nContent-Disposition: form-data; name="input_image"; filename="fox.png"\r\n\r\n'


def flood_head() -> str:
    """Send 46 MB of header lines; return the status of the answer, or `reset`."""
    lines = b"x-header: value\r\n" * (MB // 17)
    with _connect() as client:
        try:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            for _ in range(46):
                client.sendall(lines)
            return _status(client)
        except ConnectionError:
            return "reset"  # it can overtake the answer


@contextmanager
def hold_uploads(number: int) -> Generator[list[str]]:
    """Send this many uploads without their ends, and hold them for the block.

    The list has the status of each that was answered, and `held` for the others.
    """
    outcomes: list[str] = []
    ready, over = Semaphore(0), Event()

    def upload() -> None:
        with _connect() as client:
            outcomes.append(_send_upload(client))
            ready.release()
            over.wait(60)

    with ThreadPoolExecutor(number) as threads:
        uploads = [threads.submit(upload) for _ in range(number)]
        try:
            for _ in range(number):
                if not ready.acquire(timeout=60):
                    fail("the uploads are not all sent or refused within 60 s")
            yield outcomes
        finally:
            over.set()
        for sent in uploads:
            sent.result()


def _send_upload(client: socket.socket) -> str:
    """Send an upload without its last megabyte; return the status of the answer, or `held` without one."""
    head = [
        "POST /v1/tasks HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {ADMIN_KEY}",
        "Content-Type: multipart/form-data; boundary=b",
        f"Content-Length: {_UPLOAD}",
    ]
    client.sendall("\r\n".join([*head, "", ""]).encode() + _PART)
    try:
        for _ in range(_UPLOAD // MB - 1):
            client.sendall(bytes(MB))
    except ConnectionError:
        pass  # refused, which the answer says if it has arrived
    client.settimeout(15)  # longer than a request waits for a place
    try:
        return _status(client)
    except TimeoutError:
        return "held"


def _connect() -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(env["FLUXHOOK_PORT"])), timeout=60)


def _status(client: socket.socket) -> str:
    """Return the status of the answer. Raises ConnectionError if the connection ends without one."""
    line = client.makefile("rb").readline()
    if not line:
        raise ConnectionResetError
    return line.split()[1].decode()
