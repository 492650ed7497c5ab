"""A PostgreSQL server of our own, from installed binaries: started, killed, started again, stopped."""

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

# The path of a unix socket may have 107 characters, more than some temporary folders leave over.
PLACE = Path("/tmp")  # noqa: S108 - each server has a folder of its own there
_START_SECONDS = 30.0
_USER = "postgres"
_SETTINGS = {"listen_addresses": "", "max_connections": "200"}
# Where its data never outlives the run, nothing waits for a disk.
_FORGETFUL = {"autovacuum": "off", "fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}


class Refused(Exception):
    """Why there is no server here."""


@dataclass
class Server:
    """One folder of data, and the process that serves it on a unix socket."""

    binaries: Path
    folder: Path
    durable: bool
    env: Mapping[str, str] = field(default_factory=dict)  # beside what it inherits
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def dsn(self) -> str:
        return f"postgresql://{_USER}@/postgres?host={self.folder}"

    def make(self) -> None:
        """Lay out the folder of data."""
        flags = ["-A", "trust", "-U", _USER, "-E", "UTF8", "--no-locale", "--no-sync"]
        try:
            _run(*_not_as_root(), self.binaries / "initdb", *flags, "-D", self.folder / "data")
        except subprocess.CalledProcessError as refused:
            raise Refused(refused.stderr.decode()[-500:]) from refused
        except OSError as missing:
            raise Refused(str(missing)) from missing

    def start(self) -> None:
        """Serve, and wait until it answers. After a kill the old one's processes may hold the data for a moment."""
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            self._process = self._launch()
            if self._answers(until):
                return
            time.sleep(0.2)
        raise Refused((self.folder / "log").read_text()[-500:])

    def kill(self) -> None:
        """`kill -9`; the processes of its sessions end when they see that."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_START_SECONDS)

    def stop(self) -> None:
        if self._process is not None:
            # SIGINT ends sessions and stops; SIGTERM would wait for every session to leave by itself.
            self._process.send_signal(signal.SIGINT)
            self._process.wait(_START_SECONDS)

    def _launch(self) -> subprocess.Popen[bytes]:
        settings = [
            f"--{name}={value}" for name, value in {**_SETTINGS, **({} if self.durable else _FORGETFUL)}.items()
        ]
        with (self.folder / "log").open("a") as out:
            return subprocess.Popen(  # noqa: S603
                [*_not_as_root(), self.binaries / "postgres", "-D", self.folder / "data", "-k", self.folder, *settings],
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C is for whoever started it, who has something to do there yet
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
    """A server on a new folder of data, or why there is none."""
    binaries = _newest_binaries()
    if binaries is None:
        yield "no PostgreSQL here: install the server's binaries, or name a server (TEST_POSTGRES_DSN, --postgres)"
        return
    server = Server(binaries, Path(tempfile.mkdtemp(prefix="fluxhook-pg-", dir=PLACE)), durable, env or {})
    try:
        try:
            server.make()
            server.start()
        except Refused as reason:
            yield f"PostgreSQL does not start here: {reason}"
        else:
            yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


def client_programs() -> Path | None:
    """The folder that pg_dump and pg_restore are in."""
    beside = _newest_binaries()
    if beside is not None and (beside / "pg_dump").exists():
        return beside
    on_path = shutil.which("pg_dump")
    return Path(on_path).parent if on_path else None


def _newest_binaries() -> Path | None:
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/opt/homebrew/opt").glob("postgresql@*/bin")]
    found = [place for place in places if (place / "initdb").exists()]
    if found:
        return max(found, key=_major_version)
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _major_version(binaries: Path) -> int:
    return int("".join(filter(str.isdigit, binaries.parent.name)) or 0)


def _not_as_root() -> list[str]:
    """PostgreSQL refuses root and wants a user with a name: in a user namespace, root can be `nobody`."""
    if os.geteuid() != 0:
        return []
    nobody = pwd.getpwnam("nobody")
    return ["unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}"]


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)  # noqa: S603
