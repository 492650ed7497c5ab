"""`make storm`: run thousands of tasks while callbacks, answers and processes are lost, then check the results.

Prints the figures and each broken promise, and exits with 1 if there is one.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.proof import network_faults
from tests.proof.storm_judge import Figures, judge
from tests.proof.storm_run import FAULTS, Seen, Storm, go_through


def run_and_judge(storm: Storm, folder: Path) -> tuple[Figures, Seen]:
    """Run a storm in this folder and judge it."""
    seen = asyncio.run(go_through(storm, folder))
    return judge(storm.seed, seen.asked, seen), seen


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.db == "sqlite" and options.workers != 1:
        parser.error("SQLite serves only one process; more workers need --db postgres")
    if options.faults == "network" and (options.db == "sqlite" or options.workers == 1):
        parser.error("faults of the network need --db postgres and several workers")
    if options.faults == "network" and (reason := network_faults.missing()):
        parser.error(reason)
    storm = Storm(
        tasks=options.tasks,
        seed=options.seed,
        database=options.db,
        workers=options.workers,
        network=options.faults == "network",
        accounts=options.accounts,
    )
    folder = Path(tempfile.mkdtemp(prefix="fluxhook-storm-"))
    _say(_description(storm))
    figures, seen = run_and_judge(storm, folder)
    _say(_report(figures))
    if options.json:
        options.json.write_text(json.dumps(figures.as_json, indent=2) + "\n")
    broken = figures.broken + figures.too_slow
    if not broken and not options.keep:
        shutil.rmtree(folder)
        return 0
    (folder / "ledger.json").write_text(json.dumps(seen.ledger, indent=1))
    (folder / "tasks.json").write_text(json.dumps(seen.tasks, indent=1))
    (folder / "timelines.json").write_text(json.dumps(seen.timelines, indent=1))
    _say("".join(f"BROKEN: {promise}\n" for promise in broken))
    _say(f"Databases, logs and timelines are in {folder}\n")
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make storm", description=__doc__)
    parser.add_argument("--tasks", type=int, default=Storm().tasks, help="number of tasks")
    parser.add_argument("--seed", type=int, default=Storm().seed, help="seed of faults and kills")
    parser.add_argument("--db", choices=["sqlite", "postgres"], default="sqlite", help="database engine")
    parser.add_argument("--workers", type=int, default=1, help="number of workers; more than one run with two APIs")
    parser.add_argument(
        "--faults", choices=["kills", "network"], default="kills", help="what happens besides the provider's faults"
    )
    parser.add_argument("--accounts", type=int, default=1, help="number of provider accounts")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "--keep", action="store_true", help="keep databases, logs and timelines also if no promise is broken"
    )
    return parser


def _description(storm: Storm) -> str:
    faults = ", ".join(f"{name} {value:.0%}" for name, value in FAULTS.items())
    if storm.network:
        return f"{storm.tasks} tasks, seed {storm.seed}; {faults}; {', '.join(network_faults.NAMES)}, each once\n"
    killed = "the service" if storm.workers == 1 else f"one of {storm.workers} workers and 2 APIs, chosen at random,"
    return (
        f"{storm.tasks} tasks on {storm.database}, accounts: {storm.accounts}, seed {storm.seed}, "
        f"hold window {storm.hold_s} s, at most {storm.bound_s:.0f} s\n"
        f"{faults}; {killed} is killed with -9 every 3 to 8 s\n"
    )


def _report(figures: Figures) -> str:
    rows = {name: value for name, value in figures.as_json.items() if value not in ({}, [])}
    width = max(map(len, rows))
    return "".join(f"{name.replace('_', ' '):{width}}  {_shown(value)}\n" for name, value in rows.items())


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items())
    return str(value)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
