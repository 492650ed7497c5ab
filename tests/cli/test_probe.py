"""`probe`, run against the twin: the report says how the provider behaves, and holds nothing that is secret."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from app.cli import commands
from app.twin import build
from tests.sockets import listening, serving

KEY = "a-provider-key-that-is-secret"
QUICK = ("--poll-every", "0.2", "--callback-wait", "20")


class Provider:
    """The twin, and the arguments of a probe of it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        bound, self.own = listening()
        bound.close()  # the probe listens there

    @property
    def arguments(self) -> list[str]:
        listen = ("--listen", self.own.removeprefix("http://"), "--public-url", self.own)
        return ["probe", *listen, "--base-url", self.url, "--out", str(self.folder / "probe"), "--yes", *QUICK]

    async def set(self, **rules: Any) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as twin:
            (await twin.put("/twin/rules", json=rules)).raise_for_status()

    async def accepted(self) -> int:
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as twin:
            return int((await twin.get("/twin/ledger")).json()["accepted"])

    async def probe(self, *arguments: str) -> Result:
        env = {"FLUXHOOK_BFL_API_KEY": KEY, "FLUXHOOK_DATA_DIR": str(self.folder)}
        return await asyncio.to_thread(CliRunner().invoke, commands("probe"), [*self.arguments, *arguments], env=env)

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.folder / "probe.json").read_text())
        return report


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncGenerator[Provider]:
    bound, url = listening()
    async with serving(build(ready_after_s=0.5, seed=1), bound):
        made = Provider(url, tmp_path)
        await made.set(retries_s=[0.2, 0.3], link_life_s=2, megapixels=0.05)
        yield made


@pytest.mark.parametrize(
    ("profile", "verdict", "proof", "says"),
    [
        ("b", "shared_secret", ["x-webhook-secret: the secret itself"], "Ready"),
        ("a", "signed", ["x-bfl-signature: the HMAC-SHA256 of the body in hex after `sha256=`"], "Ready"),
        ("c", "shared_secret", ["x-webhook-secret: the secret itself"], "SUCCESS"),
        ("none", "unproven", [], "Ready"),
    ],
)
async def test_a_probe_reports_the_proof_and_the_repetition_of_a_callback(
    provider: Provider, profile: str, verdict: str, proof: list[str], says: str
) -> None:
    await provider.set(profile=profile, retries_s=[0.2, 0.3])
    done = await provider.probe("--no-until-expiry")
    report = provider.report
    final = [seen for seen in report["callbacks"] if seen["says"] == says]

    assert done.exit_code == 0, done.output
    assert (report["complete"], report["stopped"]) == (True, None)
    assert {(seen["verdict"], tuple(seen["proofs"])) for seen in report["callbacks"]} == {(verdict, tuple(proof))}
    assert report["callbacks"][0]["answered"] == 503
    assert final[-1]["answered"] == 200
    assert any(seen["same_body_as_before"] for seen in report["callbacks"])
    assert report["submit"]["members"]["id"] == "UUID"
    assert report["spent_credits"] == report["price_credits"]
    assert "after the last one" in done.stdout


async def test_a_probe_reports_redirects_states_and_what_is_left_after_the_expiry(provider: Provider) -> None:
    await provider.set(newer_statuses=True, status_redirects=1, delivery_redirects=1, polling_url_with_webhook=True)
    done = await provider.probe()
    report = provider.report

    assert done.exit_code == 0, done.output
    assert {"Reasoning", "Generating", "Ready"} & {poll["says"] for poll in report["polls"]} >= {"Ready"}
    assert [hop["status"] for hop in report["polls"][0]["redirects"]] == [307]
    assert [hop["followed"] for hop in report["link"]["redirects"]] == [True]
    assert report["submit"]["members"]["polling_url"] == "URL on 127.0.0.1"
    assert report["link"]["status"] == 200
    assert report["link"]["query"] == ["rsct", "se", "sig", "sp", "sr", "sv"]
    assert report["after_expiry"]["link_status"] == 403
    assert report["after_expiry"]["poll"]["says"] == "Ready"


async def test_a_report_holds_no_key_secret_prompt_id_or_link(provider: Provider) -> None:
    done = await provider.probe("--no-until-expiry")
    async with httpx.AsyncClient(base_url=provider.url, timeout=60) as twin:
        (task,) = (await twin.get("/twin/ledger")).json()["tasks"]
    written = (provider.folder / "probe.json").read_text() + (provider.folder / "probe.txt").read_text() + done.output

    for secret in (KEY, "a plain grey square", task["id"], "/callback", "/delivery/", "sig="):
        assert secret not in written


async def test_nothing_is_spent_if_the_public_address_does_not_lead_to_the_probe(provider: Provider) -> None:
    elsewhere = await provider.probe("--public-url", provider.url)
    nowhere = await provider.probe("--public-url", "http://127.0.0.1:9")
    unasked = await asyncio.to_thread(
        CliRunner().invoke,
        commands("probe"),
        [argument for argument in provider.arguments if argument != "--yes"],
        env={"FLUXHOOK_BFL_API_KEY": KEY},
    )

    assert "does not lead to this probe" in elsewhere.stderr
    assert "cannot be reached: ConnectError" in nowhere.stderr
    assert "This submits one task of " in unasked.stderr
    assert "Add --yes" in unasked.stderr
    assert [done.exit_code for done in (elsewhere, nowhere, unasked)] == [1, 1, 1]
    assert await provider.accepted() == 0


async def test_a_refused_key_is_reported(provider: Provider) -> None:
    await provider.set(keys_revoked=True)
    done = await provider.probe("--model", "flux-2-pro")

    assert done.exit_code == 1
    assert "the provider did not accept the task; the report says what was found" in done.stderr
    assert provider.report["submit"]["status"] == 403


async def test_ctrl_c_leaves_the_report_so_far(provider: Provider) -> None:
    await provider.set(ready_after_s=600)
    probing = subprocess.Popen(  # noqa: ASYNC220, S603 - our own code
        [sys.executable, "-m", "app", *provider.arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "FLUXHOOK_BFL_API_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert probing.stderr is not None
    while b"A poll says" not in (line := await asyncio.to_thread(probing.stderr.readline)):
        assert line
    probing.send_signal(signal.SIGINT)
    _, stderr = await asyncio.to_thread(probing.communicate, timeout=60)

    assert probing.returncode == 130
    assert b"Interrupted. The report so far is in " in stderr
    assert b"Traceback" not in stderr
    assert (provider.report["complete"], provider.report["stopped"]) == (False, "it was interrupted")
    assert provider.report["submit"]["status"] == 200
