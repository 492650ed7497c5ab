"""Slow flushes: a small C library, preloaded, that delays fsync and fdatasync."""

import shutil
import subprocess
from pathlib import Path

_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static void wait_first(void) {
    struct timespec left = {DELAY_US / 1000000, (DELAY_US % 1000000) * 1000L};
    while (nanosleep(&left, &left) != 0) { }
}

#define SLOW(name) \\
    int name(int handle) { \\
        static int (*real)(int); \\
        if (!real) real = (int (*)(int)) dlsym(RTLD_NEXT, #name); \\
        wait_first(); \\
        return real(handle); \\
    }

SLOW(fsync)
SLOW(fdatasync)
"""


class LeftOut(Exception):
    """Flushes cannot be slowed; the text gives the reason."""


def library(folder: Path, delay_ms: float) -> Path:
    """Compile a library for LD_PRELOAD that delays each flush by `delay_ms`. Raises LeftOut if that fails."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise LeftOut("no C compiler `cc` found")
    source, target = folder / "slow_flush.c", folder / "slow_flush.so"
    source.write_text(_SOURCE)
    delay = f"-DDELAY_US={int(delay_ms * 1000)}"
    command = [compiler, "-shared", "-fPIC", "-O1", delay, str(source), "-o", str(target), "-ldl"]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - the compiler, on our own source
    if done.returncode:
        raise LeftOut(done.stderr.decode(errors="replace").strip()[:200])
    return target
