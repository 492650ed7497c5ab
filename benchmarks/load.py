"""The load generator, a process of its own: `python -m benchmarks.load PLAN`.

It keeps a fixed number of connections, sends prepared requests, reads only the status and length of each answer, and
records the status and latency of each request. Loopback only.
"""

import asyncio
import json
import os
import signal
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from time import process_time

import uvloop

from benchmarks.connection import Connection, Load
from benchmarks.plan import Plan, read_plan, read_requests
from benchmarks.processes import WAY
from benchmarks.turns import Closed, Open


async def generate(plan: Plan, requests: list[bytes], begins: Callable[[], None]) -> Load:
    """Send as planned, and wait for the answers: for the last ones at most `plan.grace_s` seconds.

    `begins` is called when all connections are open. Raises RuntimeError for an exception in a callback of the loop.
    """
    load = Load(plan, requests)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(load.fail)
    loop.add_signal_handler(signal.SIGTERM, load.done.set)  # the requests sent so far are still reported
    connections = [Connection(load) for _ in range(plan.connections)]
    await asyncio.gather(*(connection.connect() for connection in connections if not plan.fresh))
    begins()
    load.begin(Closed(load) if plan.rate is None else Open(load, plan.rate))
    for connection in connections:
        load.ready(connection)
    before = process_time()
    try:
        async with asyncio.timeout(plan.seconds + plan.grace_s):
            await load.done.wait()
    except TimeoutError:
        pass  # unanswered requests keep the status NONE
    load.cpu_s = process_time() - before
    load.end()
    for connection in connections:
        connection.leave()
    await asyncio.sleep(0)  # lets the loop close the connections
    loop.remove_signal_handler(signal.SIGTERM)
    if load.fault is not None:
        raise RuntimeError(load.fault["message"]) from load.fault.get("exception")
    return load


def main() -> int:
    plan = read_plan(Path(sys.argv[1]))
    if plan.gives_way:
        os.nice(WAY)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        load = runner.run(generate(plan, read_requests(Path(plan.requests)), Path(plan.outcomes).touch))
    with Path(plan.outcomes).open("wb") as out:
        array("H", load.statuses).tofile(out)
        array("d", load.latencies).tofile(out)
    summary = {"sent": len(load.statuses), "seconds": load.ended - load.began, "own_cpu_s": load.cpu_s}
    sys.stdout.write(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
