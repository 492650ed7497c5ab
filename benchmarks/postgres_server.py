"""A temporary PostgreSQL server from installed binaries, which can be killed and restarted."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# The path of a unix socket may have 107 characters; some temporary folders have longer paths.
PLACE = Path("/tmp")  # noqa: S108 - each server has its own folder there
_START_SECONDS = 60.0
_USER = "postgres"
_SETTINGS = {"listen_addresses": "", "max_connections": "200"}
# If the data need not survive a crash, nothing waits for the disk.
_NOT_DURABLE = {"autovacuum": "off", "fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class Refused(Exception):
    """The server cannot be started; the text gives the reason."""


@dataclass
class Server:
    """One data folder, and the process that serves it on a unix socket."""

    binaries: Path
    folder: Path
    durable: bool
    env: Mapping[str, str] = field(default_factory=dict)  # in addition to the inherited environment
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def dsn(self) -> str:
        return f"postgresql://{_USER}@/postgres?host={self.folder}"

    def make(self) -> None:
        """Initialize the data folder."""
        flags = ["-A", "trust", "-U", _USER, "-E", "UTF8", "--no-locale", "--no-sync"]
        try:
            _run(*not_as_root(), self.binaries / "initdb", *flags, "-D", self.folder / "data")
        except subprocess.CalledProcessError as refused:
            raise Refused(refused.stderr.decode()[-500:]) from refused
        except OSError as missing:
            raise Refused(str(missing)) from missing

    def start(self) -> None:
        """Start the server and wait until it answers.

        Retries, because processes that remain after a kill may lock the data folder for a moment. Raises Refused after
        60 s.
        """
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            self._process = self._launch()
            if self._answers(until):
                return
            time.sleep(0.2)
        raise Refused((self.folder / "log").read_text()[-500:])

    def kill(self) -> None:
        """Send `kill -9`; the server's session processes notice that and end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_START_SECONDS)

    def stop(self) -> None:
        if self._process is not None:
            # SIGINT ends all sessions; SIGTERM would wait until each session disconnects.
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_START_SECONDS)

    def _launch(self) -> subprocess.Popen[bytes]:
        settings = [
            f"--{name}={value}" for name, value in {**_SETTINGS, **({} if self.durable else _NOT_DURABLE)}.items()
        ]
        with (self.folder / "log").open("a") as out:
            return subprocess.Popen(  # noqa: S603
                [*not_as_root(), self.binaries / "postgres", "-D", self.folder / "data", "-k", self.folder, *settings],
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C goes only to the parent, which still needs the server
            )

    def _answers(self, until: float) -> bool:
        while self._process is not None and self._process.poll() is None and time.monotonic() < until:
            try:
                _run(self.binaries / "pg_isready", "-h", self.folder, "-U", _USER)
            except subprocess.CalledProcessError:
                time.sleep(0.02)
            else:
                return True
        return False


@contextmanager
def running(*, durable: bool, env: Mapping[str, str] | None = None) -> Generator[Server | str]:
    """Yield a server on a new data folder, or the reason why there is none."""
    binaries = _newest_binaries()
    if binaries is None:
        yield "no PostgreSQL binaries found: install them, or name a server (TEST_POSTGRES_DSN, --postgres)"
        return
    server = Server(binaries, Path(tempfile.mkdtemp(prefix="fluxhook-pg-", dir=PLACE)), durable, env or {})
    try:
        try:
            server.make()
            server.start()
        except Refused as reason:
            yield f"PostgreSQL does not start: {reason}"
        else:
            yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


def client_programs() -> Path | None:
    """Return the folder of pg_dump and pg_restore; None if they are not installed."""
    newest = _newest_binaries()
    if newest is not None and (newest / "pg_dump").exists():
        return newest
    on_path = shutil.which("pg_dump")
    return Path(on_path).parent if on_path else None


def _newest_binaries() -> Path | None:
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/opt/homebrew/opt").glob("postgresql@*/bin")]
    installed = [place for place in places if (place / "initdb").exists()]
    if installed:
        return max(installed, key=_major_version)
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _major_version(binaries: Path) -> int:
    return int("".join(filter(str.isdigit, binaries.parent.name)) or 0)


def not_as_root() -> list[str]:
    """Return a command prefix for root: PostgreSQL refuses root, so it runs as a named user in a user namespace."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam("nobody")  # phrase: the name of a user
    return ["unshare", "--user", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}"]


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)  # noqa: S603
