"""`probe`: settle with one real task what the documents of the provider leave open."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from app import clock
from app.catalog import Catalog, Model
from app.cli import completion
from app.cli.confirm import Yes, confirm
from app.cli.failure import fail
from app.cli.options import AsJson
from app.cli.output import print_json
from app.cli.probing import run as probing
from app.cli.probing import shape, text
from app.cli.probing.report import Report
from app.config_file import AccountSettings
from app.provider.accounts import provider_spec
from app.setting_types import sends_key_in_clear
from app.settings import PREFIX, Settings, from_environment
from app.wiring import build_outbound, load_catalog


def probe(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to receive callbacks.")] = "127.0.0.1:8089",
    public_url: Annotated[
        str | None,
        typer.Option(help="The URL at which the provider reaches the listener. Without it, the task is only polled."),
    ] = None,
    account: Annotated[
        str | None, typer.Option(help="The provider account, if several are configured. Default: the first one.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="The base URL of the provider. Default: as configured.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The model. Default: the cheapest one.", autocompletion=completion.models)
    ] = None,
    out: Annotated[Path, typer.Option(help="Where to write the report, with the endings .json and .txt.")] = Path(
        "fluxhook-probe"
    ),
    refuse: Annotated[
        int, typer.Option(min=0, max=4, help="How many callbacks to refuse, to see when they are repeated.")
    ] = 1,
    *,
    poll_every: Annotated[float, typer.Option(min=0.05, help="Seconds between polls.")] = 1.0,
    callback_wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for a callback, or its repetition.")
    ] = 90,
    until_expiry: Annotated[
        bool, typer.Option(help="Wait until the link has expired, mostly ten minutes, and ask once more.")
    ] = True,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Submit one cheap task to the provider and report how it behaves, without secrets or prompts."""
    settings = from_environment()
    used = _account(settings, account, base_url)
    chosen = _model(load_catalog(settings), model, needs_webhook=public_url is not None)
    plan = probing.Plan(
        spec=provider_spec(used),
        base_url=used.url,
        key=used.key.get_secret_value() if used.key is not None else "",
        model=chosen,
        outbound=build_outbound(settings),
        listen=_address(listen) if public_url is not None else None,
        public_url=public_url.rstrip("/") if public_url is not None else None,
        refuse=refuse,
        poll_every_s=poll_every,
        callback_wait_s=callback_wait,
        until_expiry=until_expiry,
    )
    files = [out.with_name(f"{out.name}.{ending}") for ending in ("json", "txt")]
    _require_writable(files)
    host = shape.host_of(plan.base_url)
    price = "an unknown price" if chosen.credits is None else f"about {chosen.credits:g} credits"
    confirm(f"This submits one task of {chosen.id} to {host}, for {price} ({chosen.price or '?'}). Go on?", yes=yes)
    report = Report(
        at=clock.utc_now().isoformat(timespec="seconds"),
        provider=plan.spec.name,
        host=host,
        model=chosen.id,
        price_credits=chosen.credits,
        public_address=public_url is not None,
    )
    _run(plan, report, files)
    if as_json:
        print_json(json.loads(files[0].read_text()))
    else:
        typer.echo(files[1].read_text(), nl=False)
    typer.echo(f"The report is in {files[0]} and {files[1]}.", err=True)
    if report.stopped is not None:
        fail(f"{report.stopped}; the report says what was found")


def _run(plan: probing.Plan, report: Report, files: list[Path]) -> None:
    """Run the probe, and write the report however it ends."""
    try:
        asyncio.run(probing.run(plan, report, _say))
    except probing.CannotStart as error:
        _remove(files)
        fail(str(error), error)
    except KeyboardInterrupt:
        report.stopped = "it was interrupted"
        _write(plan, report, files)
        typer.echo(f"Interrupted. The report so far is in {files[0]} and {files[1]}.", err=True)
        sys.exit(130)
    except Exception as error:
        report.stopped = f"unexpected error {type(error).__name__}"
        _write(plan, report, files)
        raise
    _write(plan, report, files)


def _account(settings: Settings, name: str | None, base_url: str | None) -> AccountSettings:
    """Return the account to use, which has a key."""
    found = [account for account in settings.accounts if name in {None, account.name}]
    if not found:
        fail(f"there is no account {name}: configured are {', '.join(account.name for account in settings.accounts)}")
    account = found[0] if base_url is None else replace(found[0], url=base_url.rstrip("/"))
    if sends_key_in_clear(account.url):
        fail(f"{account.url} must be https, because the API key is sent to it")
    if account.key is None:
        fail(f"no key of the provider: set {PREFIX}{account.kind.upper()}_API_KEY")
    return account


def _model(catalog: Catalog, model_id: str | None, *, needs_webhook: bool) -> Model:
    """Return the named model, else the cheapest one that needs a prompt alone."""
    if model_id is not None:
        named = catalog.model(model_id)
        if needs_webhook and not named.webhook:
            fail(f"{model_id} takes no webhook: leave out --public-url, or name another --model")
        if not set(named.required) <= {"prompt"}:
            fail(f"{model_id} needs more than a prompt: name another --model")
        return named
    usable = [
        model
        for model in catalog
        if model.kind == "image"
        and model.credits is not None
        and set(model.required) <= {"prompt"}
        and (model.webhook or not needs_webhook)
    ]
    if not usable:
        fail("no model of the catalog has a price: name one with --model")
    return min(usable, key=lambda model: model.credits or 0)


def _address(text_: str) -> tuple[str, int]:
    host, _, port = text_.rpartition(":")
    if not host or not port.isdecimal():
        raise typer.BadParameter("give HOST:PORT, such as 127.0.0.1:8089", param_hint="--listen")
    return host.strip("[]"), int(port)


def _require_writable(files: list[Path]) -> None:
    for file in files:
        try:
            with file.open("ab"):
                pass
        except OSError as error:
            raise typer.BadParameter(f"{file} cannot be written: {error.strerror}", param_hint="--out") from error


def _write(plan: probing.Plan, report: Report, files: list[Path]) -> None:
    contents = (json.dumps(report.as_json(), indent=2), "\n".join(text.lines(report)))
    for file, content in zip(files, contents, strict=True):
        try:
            file.write_text(f"{_redacted(plan, content)}\n")
        except OSError as error:
            fail(f"{file} cannot be written: {error.strerror}", error)


def _redacted(plan: probing.Plan, content: str) -> str:
    """Replace what identifies the account or its owner, if a provider repeats it where it is not expected."""
    public_host = shape.host_of(plan.public_url) if plan.public_url else ""
    hidden = {plan.key: "[key]", probing.PROMPT: "[prompt]"}
    if public_host != shape.host_of(plan.base_url):
        hidden[public_host] = "[public host]"
    for value, mark in hidden.items():
        if value:
            content = content.replace(value, mark)
    return content


def _remove(files: list[Path]) -> None:
    for file in files:
        if file.stat().st_size == 0:
            file.unlink()


def _say(line: str) -> None:
    typer.echo(line, err=True)
