"""The reference servers and the twin, each a process: `python -m benchmarks.servers KIND [ARGUMENT...] PORT`.

All run under uvicorn like the service: one worker, uvloop, httptools, no access log.
"""

import sys
from pathlib import Path
from typing import Any

import uvicorn


def _app(kind: str, arguments: list[str]) -> Any:
    # Imported per kind: loading the libraries of all kinds takes as long as the rest of a short run.
    match kind, arguments:
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
        case "twin", [ready_after_s, megapixels]:
            from benchmarks.ready_twin import ready_twin  # noqa: PLC0415

            return ready_twin(float(ready_after_s), float(megapixels))
        case "floor", [folder, provider]:
            from benchmarks.floor import floor  # noqa: PLC0415

            return floor(Path(folder), provider)
    raise SystemExit(f"no server {kind} with these arguments")


def main() -> int:
    kind, *arguments, port = sys.argv[1:]
    config = uvicorn.Config(
        _app(kind, arguments), host="127.0.0.1", port=int(port), access_log=False, log_config=None, server_header=False
    )
    uvicorn.Server(config).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
