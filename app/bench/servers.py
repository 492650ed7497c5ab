"""The servers that ours is measured beside, each a process: `python -m app.bench.servers KIND [MORE...] PORT`.

All run under uvicorn as ours does: one worker, uvloop, httptools, no access log.
"""

import sys
from pathlib import Path
from typing import Any

import uvicorn

from app.bench.bare import bare, hmac_only
from app.bench.naive import naive
from app.bench.ready_twin import ready_twin


def _app(kind: str, more: list[str]) -> Any:
    match kind, more:
        case "bare", []:
            return bare
        case "hmac", []:
            return hmac_only()
        case "naive", [url, ids]:
            return naive(url, Path(ids).read_text().split())
        case "twin", [ready_after_s]:
            return ready_twin(float(ready_after_s))
    raise SystemExit(f"there is no server {kind}")


def main() -> int:
    kind, *more, port = sys.argv[1:]
    config = uvicorn.Config(
        _app(kind, more), host="127.0.0.1", port=int(port), access_log=False, log_config=None, server_header=False
    )
    uvicorn.Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
