"""Doctor finds a proxy in front of the service that changes what a callback needs."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.cli.doctor import public_url
from app.main import create_app
from app.security.outbound import open_outbound
from app.settings import Settings
from tests.sockets import listening, serving
from tests.world import RING_KEY, World

Change = Callable[[str, dict[str, str], bytes], tuple[str, dict[str, str], bytes]]


def as_sent(path: str, headers: dict[str, str], body: bytes) -> tuple[str, dict[str, str], bytes]:
    return path, headers, body


def json_again(path: str, headers: dict[str, str], body: bytes) -> tuple[str, dict[str, str], bytes]:
    return path, headers, json.dumps(json.loads(body)).encode() if body else body


def without_secret(path: str, headers: dict[str, str], body: bytes) -> tuple[str, dict[str, str], bytes]:
    return path, {name: value for name, value in headers.items() if name != "x-webhook-secret"}, body


def in_small_letters(path: str, headers: dict[str, str], body: bytes) -> tuple[str, dict[str, str], bytes]:
    return path.lower(), headers, body


def proxy_to(address: str, change: Change) -> Starlette:
    async def forward(request: Request) -> Response:
        path, headers, body = change(request.url.path, dict(request.headers), await request.body())
        headers.pop("content-length", None)
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            answer = await client.request(
                request.method, path, params=request.query_params, headers=headers, content=body
            )
        return Response(answer.content, answer.status_code, media_type="application/json")

    return Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST"])])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (as_sent, "leads to Fluxhook, and callbacks arrive there unchanged"),
        (json_again, "leads to Fluxhook, but on the way something changes the bytes of the body"),
        (without_secret, "leads to Fluxhook, but on the way something removes the header X-Webhook-Secret"),
        (in_small_letters, "leads to Fluxhook, but on the way something changes the path"),
    ],
)
async def test_doctor_says_what_a_proxy_changes(world: World, tmp_path: Path, change: Change, expected: str) -> None:
    ours, address = listening()
    front, front_address = listening()
    settings = Settings.from_env(
        {
            "FLUXHOOK_DATA_DIR": str(tmp_path),
            "FLUXHOOK_PUBLIC_URL": front_address,
            "FLUXHOOK_SECRET_KEYS": RING_KEY,
            "FLUXHOOK_BFL_API_KEY": "a-provider-key",
            "FLUXHOOK_BFL_BASE_URL": "http://127.0.0.1:9",
        }
    )
    async with (
        serving(create_app(nullcontext(world.use), with_worker=False), ours),
        serving(proxy_to(address, change), front),
    ):
        finding = await public_url.check(settings, open_outbound(None, None))

    assert expected in finding.text
    assert finding.unhealthy == (change is not as_sent)


async def test_a_check_that_is_too_large_is_refused_and_nothing_is_stored(world: World) -> None:
    answer = await world.api.post("/callbacks/reachability/check/a-token", content=b"x" * (1024 * 1024 + 1))

    assert answer.status_code == 413
    assert (await world.api.get("/v1/callbacks")).json()["callbacks"] == []
