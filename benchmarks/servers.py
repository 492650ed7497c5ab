"""The servers that ours is measured beside, each a process: `python -m benchmarks.servers KIND [MORE...] PORT`.

All run under uvicorn as ours does: one worker, uvloop, httptools, no access log.
"""

import sys
from pathlib import Path
from typing import Any

import uvicorn


def _app(kind: str, more: list[str]) -> Any:
    # Each imports what it needs itself: the others' libraries would take as long to load as all else of a short run.
    match kind, more:
        case "bare", []:
            from benchmarks.bare import bare  # noqa: PLC0415

            return bare
        case "hmac", []:
            from benchmarks.hmac_only import hmac_only  # noqa: PLC0415

            return hmac_only()
        case "naive", [url, ids]:
            from benchmarks.naive import naive  # noqa: PLC0415

            return naive(url, Path(ids).read_text().split())
        case "twin", [ready_after_s]:
            from benchmarks.ready_twin import ready_twin  # noqa: PLC0415

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
