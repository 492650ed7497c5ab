"""The plan of a load generator, and the files that it shares with its caller."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

_LENGTH = 4  # bytes of the length prefix of each request


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send. `requests` is the file to read, `outcomes` the file for statuses and latencies."""

    port: int
    requests: str
    outcomes: str
    seconds: float
    connections: int = 32
    rate: float | None = None  # Poisson arrivals per second; None: a connection sends after each answer
    fresh: bool = False  # a new connection for each request
    repeat: bool = False  # start again from the first request after the last
    grace_s: float = 6.0  # to wait for missing answers at the end
    gives_way: bool = False  # to the service and to what is measured, as noise does


def read_plan(path: Path) -> Plan:
    return Plan(**json.loads(path.read_text()))


def write_plan(path: Path, plan: Plan) -> None:
    path.write_text(json.dumps(asdict(plan)))


def read_requests(path: Path) -> list[bytes]:
    data, at, requests = path.read_bytes(), 0, []
    while at < len(data):
        begin = at + _LENGTH
        at = begin + int.from_bytes(data[at:begin], "big")
        requests.append(data[begin:at])
    return requests


def write_requests(path: Path, requests: list[bytes]) -> None:
    path.write_bytes(b"".join(len(request).to_bytes(_LENGTH, "big") + request for request in requests))
