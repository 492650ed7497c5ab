"""What the generator is to do, and the files that it and its caller hand each other."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

_LENGTH = 4  # bytes in front of each request that say how long it is


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send. `requests` is a file of them, `outcomes` the one that statuses and latencies are written to."""

    port: int
    requests: str
    outcomes: str
    seconds: float
    connections: int = 32
    rate: float | None = None  # a second, by Poisson; None: each connection sends when it was answered
    fresh: bool = False  # a new connection for each request
    repeat: bool = False  # begin again with the first request when all were sent
    grace_s: float = 6.0  # for the answers that are still missing in the end


def read_plan(path: Path) -> Plan:
    return Plan(**json.loads(path.read_text()))


def write_plan(path: Path, plan: Plan) -> None:
    path.write_text(json.dumps(asdict(plan)))


def read_requests(path: Path) -> list[bytes]:
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        begin = at + _LENGTH
        at = begin + int.from_bytes(data[at:begin], "big")
        found.append(data[begin:at])
    return found


def write_requests(path: Path, requests: list[bytes]) -> None:
    path.write_bytes(b"".join(len(each).to_bytes(_LENGTH, "big") + each for each in requests))
