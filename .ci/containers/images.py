"""Build base images from Debian packages under the official names, build our image on them, and check it."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from containers.commands import HERE, docker, inspect, require, run, scratch

PYTHON, POSTGRES = "python:3.13-slim", "postgres:17"
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
LARGEST = 260_000_000


def build_bases() -> None:
    with ThreadPoolExecutor() as pool:
        for build in [pool.submit(_build_python), pool.submit(_build_postgres)]:
            build.result()


def _build_python() -> None:
    root = _debian(
        "--include=ca-certificates,netbase,tzdata,python3,python3-venv,python3-pip",
        '--customize-hook=ln -s python3 "$1/usr/bin/python"',
        '--customize-hook=rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
        f"--customize-hook=copy-in {CA_BUNDLE} {Path(CA_BUNDLE).parent}",
    )
    trust = [f"--change=ENV {name}={CA_BUNDLE}" for name in ("PIP_CERT", "SSL_CERT_FILE")]
    docker("import", *trust, root, PYTHON)


def _build_postgres() -> None:
    # Otherwise the package would create a database cluster.
    settings = 'mkdir -p "$1/etc/postgresql-common"; echo "create_main_cluster = false" > "$1/etc/postgresql-common/{}"'
    root = _debian(
        "--include=postgresql-17",
        "--dpkgopt=force-confold",
        f"--essential-hook={settings.format('createcluster.conf')}",
    )
    docker("import", root, "local/postgres")
    docker("build", "--tag", POSTGRES, str(Path(__file__).parent / "postgres"))


def _debian(*options: str) -> str:
    """Return the path of a tar file with a minimal Debian root file system."""
    root = scratch / f"{abs(hash(options))}.tar"
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    run("mmdebstrap", "-q", "--variant=minbase", *left_out, *options, "trixie", str(root), seconds=600)
    return str(root)


def build_ours() -> None:
    docker("build", "--tag", "fluxhook", str(HERE), seconds=600)


def check_ours() -> None:
    size = int(inspect("fluxhook", "{{.Size}}"))
    require(size < LARGEST, f"the image has {size / 1e6:.0f} MB of {LARGEST / 1e6:.0f} MB allowed")
    user = inspect("fluxhook", "{{.Config.User}}")
    require(user == "10001:10001", f"the image runs as user {user}")
    history = docker("history", "--no-trunc", "fluxhook") + inspect("fluxhook", "{{json .Config.Env}}")
    found = re.findall(r"\w*(?<!GPG_)(?:KEY|KEYS|SECRET|TOKEN|PASSWORD)=[^\s\"]+", history)
    require(not found, f"no secret is in the image layers or environment {found or ''}".rstrip())
    check_health_of_a_worker()


def check_health_of_a_worker() -> None:
    """Run the image's health check with a fresh heartbeat file and with one that is a minute old."""
    check = json.loads(inspect("fluxhook", "{{json .Config.Healthcheck.Test}}"))[-1]
    script = 'touch -d "$1" /tmp/heartbeat; python -c "$0" && echo healthy || echo unhealthy'
    run_check = ["run", "--rm", "--network=none", "--tmpfs=/tmp", "--entrypoint=sh", "fluxhook", "-c", script, check]
    results = [docker(*run_check, age) for age in ("now", "1 minute ago")]
    require(results == ["healthy", "unhealthy"], "a worker whose heartbeat stopped a minute ago is unhealthy")
