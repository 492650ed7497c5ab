"""The cost of submitting tasks, and its effect on concurrent callbacks."""

import base64
import json
from collections.abc import Mapping
from types import MappingProxyType

from benchmarks.ours import ADMIN_KEY
from benchmarks.processes import memory_mb, reset_peak
from benchmarks.ready_twin import noise
from benchmarks.stage import Stage, signed
from benchmarks.wire import request

_PARALLEL = (8, 200)
_CALLBACKS = 200  # per second, concurrent with the posts
_IMAGE_SIDE = 1050  # pixels of noise, 3 bytes each: 3 MB as PNG, 4 MB as base64
_IMAGES = 5
_MARGIN_S = 15.0


def submit(stage: Stage) -> dict[str, float]:
    """Post 1 KB tasks on 8 and on 200 connections, callbacks during the latter, then large images one after another."""
    figures: dict[str, float] = {}
    post = [post_request({"prompt": "a quiet harbour in the morning, " * 30})]
    for parallel in _PARALLEL:
        outcome = stage.drive.run(
            stage.ours.port, stage.ours.pid, post, stage.seconds, connections=parallel, repeat=True
        )
        figures |= {
            f"submit_rate_{parallel}": outcome.rate,
            f"submit_p50_ms_{parallel}": outcome.ms(0.5),
            f"submit_p99_ms_{parallel}": outcome.ms(0.99),
            f"submit_refused_{parallel}": outcome.answered - outcome.counts[202],
        }
    return {**figures, "callback_p99_ms_beside_submits": _callbacks_beside(stage, post), **_image(stage)}


def post_request(
    fields: dict[str, str], key: str = ADMIN_KEY, headers: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """Return a post of a task with this API key, and with further headers."""
    usual = {
        "authorization": f"Bearer {key}",
        "user-agent": "python-httpx/0.28.1",
        "accept": "*/*",
        "content-type": "application/json",
    }
    return request("POST", "/v1/tasks", {**usual, **headers}, json.dumps(fields).encode())


def _callbacks_beside(stage: Stage, post: list[bytes]) -> float:
    seconds = 2 * stage.seconds
    callbacks = signed(stage.ours.seed(int(_CALLBACKS * seconds * 1.2) + 50))
    longest = seconds + _MARGIN_S  # it is stopped sooner
    with stage.drive.start(stage.ours.port, post, longest, connections=_PARALLEL[-1], repeat=True) as posting:
        posting.await_first()
        p99 = stage.deliver(callbacks, seconds, rate=_CALLBACKS).ms(0.99)
        posting.finish()
    return p99


def _image(stage: Stage) -> dict[str, float]:
    """Measure the time of a post with a 4 MB image, and how far the service's memory rises above its level before."""
    image = base64.b64encode(noise(_IMAGE_SIDE)).decode()
    post = post_request({"prompt": "make it sepia", "input_image": image})
    reset_peak(stage.ours.pid)
    before = memory_mb(stage.ours.pid)
    outcome = stage.drive.run(stage.ours.port, stage.ours.pid, [post] * _IMAGES, _MARGIN_S, connections=1)
    return {
        "image_submit_mb": len(post) / 2**20,
        "image_submit_p50_ms": outcome.ms(0.5),
        "image_submit_peak_mb": memory_mb(stage.ours.pid, "VmHWM") - before,
        "image_submit_refused": outcome.answered - outcome.counts[202],
    }
