"""The service behind nginx, with the configuration of the operating guide."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator
from datetime import timedelta
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.clock import utc_now
from tests.calling import done, submitted
from tests.conftest import skip_or_fail
from tests.guide import block
from tests.pictures import padded
from tests.sockets import listening, until
from tests.web.documents import problem
from tests.world import ADMIN_KEY, World

MB = 1024 * 1024
# The rest of a distribution's nginx.conf, with all paths in the folder of the test.
AROUND = """
daemon off;
master_process off;
pid pid;
events {}
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include fluxhook.conf;
}
"""


def certify(folder: Path) -> None:
    """A certificate for loopback, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), utc_now()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fluxhook.example.com")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    kept = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "tls.key").write_bytes(key.private_bytes(*kept))


@pytest.fixture
async def outside(tmp_path: Path, address: str) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that connects to nginx over TLS."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin:/usr/bin")
    if program is None:
        skip_or_fail("nginx", "no nginx here: install it")
    assert program is not None
    bound, ours = listening()
    bound.close()  # its port is nginx's now
    ours = ours.replace("http:", "https:")
    certify(tmp_path)
    given = {
        "listen 443": f"listen {ours.removeprefix('https://')}",
        "127.0.0.1:8080": address.removeprefix("http://"),
        "/etc/ssl/fluxhook": str(tmp_path / "tls"),
    }
    text = block("nginx")
    for told, here in given.items():
        assert told in text
        text = text.replace(told, here)
    (tmp_path / "fluxhook.conf").write_text(text)
    (tmp_path / "nginx.conf").write_text(AROUND)
    flags = ["-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"]
    nginx = await asyncio.create_subprocess_exec(program, *flags, stderr=subprocess.DEVNULL)
    trusted = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
    try:
        async with httpx.AsyncClient(base_url=ours, verify=trusted, trust_env=False, timeout=120) as client:
            await until(lambda: answers(client))
            yield client
    finally:
        nginx.terminate()
        await nginx.wait()


async def answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/healthz")).status_code == HTTPStatus.OK
    except httpx.TransportError:
        return False


async def test_a_callback_passes_unchanged_and_its_proof_holds(world: World, outside: httpx.AsyncClient) -> None:
    caller = await submitted(world)
    await done(world)
    world.outsider = outside
    raw = b'  {"status" :"Ready",\r\n\t"odd": "\\u00e9 \xc3\xa9 %2F+", ' + httpx.Request(
        "POST", "http://x", json=caller.ready()
    ).content.lstrip(b"{")

    answer = await caller.call(raw)

    assert (answer.status_code, await caller.verdicts()) == (200, [("signed", "moved")])


async def test_a_large_image_passes_and_what_is_too_large_is_refused(outside: httpx.AsyncClient) -> None:
    key = {"x-key": ADMIN_KEY}
    passed = await outside.post(
        "/v1/tasks", headers=key, data={"prompt": "x"}, files={"input_image": ("in.png", padded(20 * MB))}
    )
    refused = await outside.post("/v1/tasks", headers=key, json={"prompt": "x" * 37 * MB})
    callback = await outside.post("/callbacks/sub_1/token", content=bytes(1200 * 1024))

    assert passed.status_code == HTTPStatus.ACCEPTED, passed.text
    problem(refused, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    assert callback.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


async def test_events_come_as_they_happen(world: World, outside: httpx.AsyncClient) -> None:
    headers = {"x-key": ADMIN_KEY, "accept": "text/event-stream"}
    async with outside.stream("GET", "/v1/events", headers=headers) as stream, asyncio.timeout(120):
        lines = stream.aiter_lines()
        opening = await anext(lines)
        task_id = await world.post()
        async for line in lines:
            if line.startswith("data:"):
                break

    assert opening.startswith(":")
    assert task_id in line


async def test_the_metrics_are_not_public(outside: httpx.AsyncClient) -> None:
    assert (await outside.get("/metrics", headers={"x-key": ADMIN_KEY})).status_code == HTTPStatus.NOT_FOUND
