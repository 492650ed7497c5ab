"""`doctor`: reports the configuration, missing parts, and whether everything that the service depends on answers."""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape

from app.cli.doctor.checks import examine
from app.cli.options import AsJson
from app.cli.output import print_json
from app.db.engine.postgres_url import without_secrets
from app.errors import ConfigurationError
from app.setting_types import as_text
from app.settings import PREFIX, Settings, from_environment
from app.web.findings import Finding

_SET, _DEFAULT, _UNSET = "[dim]set[/]      ", "[dim]default[/]  ", "[dim]unset[/]    "
_OK, _WARNING, _UNHEALTHY = "[green]ok[/]       ", "[yellow]warning[/]  ", "[red]unhealthy[/]"


Models = Annotated[
    bool,
    typer.Option(
        "--models",
        help="Also send an empty request for each model to the provider: it is refused as invalid, and not charged.",
    ),
]


def doctor(*, models: Models = False, as_json: AsJson = False) -> None:
    """Check the configuration and what the service depends on. The exit code is 1 if a finding is unhealthy."""
    try:
        settings = from_environment()
    except ConfigurationError as error:
        _report(None, [Finding("settings", error.detail, unhealthy=True)], as_json=as_json)
        raise typer.Exit(1) from None
    findings = asyncio.run(examine(settings, with_models=models))
    _report(settings, findings, as_json=as_json)
    raise typer.Exit(1 if any(finding.unhealthy for finding in findings) else 0)


def _report(settings: Settings | None, findings: Sequence[Finding], *, as_json: bool) -> None:
    """Print the settings, unless they are invalid, and the findings."""
    if as_json:
        rows = [{"name": f.name, "text": f.text, "unhealthy": f.unhealthy, "warning": f.warning} for f in findings]
        print_json({"settings": settings and describe(settings), "findings": rows})
        return
    console = Console(soft_wrap=True, highlight=False)
    if settings is not None:
        _print_settings(console, settings)
    for finding in findings:
        mark = _UNHEALTHY if finding.unhealthy else _WARNING if finding.warning else _OK
        console.print(f"{mark}  {finding.name}: {escape(finding.text)}")


def _print_settings(console: Console, settings: Settings) -> None:
    source = f"{PREFIX} variables of this environment, {len(settings.model_fields_set)} set"
    console.print(f"Settings from the {source}. A service that was started elsewhere may have others.")
    for name, value in describe(settings).items():
        if value is None:
            console.print(f"{_UNSET}  {PREFIX}{name}")
        else:
            mark = _SET if name.lower() in settings.model_fields_set else _DEFAULT
            console.print(f"{mark}  {PREFIX}{name}: {escape(value)}")


def describe(settings: Settings) -> dict[str, str | None]:
    """Return every setting by name, as text without secrets; None for a setting without a value."""
    shown: dict[str, str | None] = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        text: str | None
        if isinstance(value, SecretStr) or (name == "secret_keys" and value):
            text = "set, not shown"
        elif name in {"database_url", "database_direct_url"} and value:
            text = without_secrets(value) or "set, not shown"
        else:
            text = as_text(value)
        shown[name.upper()] = text
    return shown
