"""A command that a person can type next, in another terminal and without this process's settings."""

import shlex
import shutil
import sys
from pathlib import Path

from app.cli.api import local_url
from app.settings import Settings


def next_command(settings: Settings, arguments: str) -> str:
    """Return a command line that reaches the service of these settings, with the key in its data folder."""
    usual = Settings.model_fields
    folder = f"FLUXHOOK_DATA_DIR={shlex.quote(str(settings.data_dir))} "
    url = f" --url {local_url(settings)}"
    return (
        f"{'' if settings.data_dir == usual['data_dir'].default else folder}{_program()} {arguments}"
        f"{'' if settings.port == usual['port'].default else url}"
    )


def _program() -> str:
    """Return how the command line is called here, such as `.venv/bin/fluxhook`."""
    called = sys.argv[0]
    if Path(called).name != "fluxhook":
        return f"{shlex.quote(sys.executable)} -m app"
    return "fluxhook" if shutil.which("fluxhook") == str(Path(called).absolute()) else shlex.quote(called)
