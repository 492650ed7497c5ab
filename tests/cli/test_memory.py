"""What a process that serves or works has of the system's memory once the large things are done."""

import platform
import subprocess
import sys

import pytest

# Twelve threads hold 2 MB each at once, three times, and let go; then the process says how much more it has, in MB.
_STORY = """
import threading
from pathlib import Path
from app.cli.serve import give_back_large_blocks

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

def use():
    for _ in range(3):
        block = b"x" * (2 * 2**20)
        together.wait()
        del block
    together.wait()
    over.wait()

{}
together, over = threading.Barrier(13), threading.Event()
before = held()
threads = [threading.Thread(target=use) for _ in range(12)]
for thread in threads:
    thread.start()
for _ in range(4):
    together.wait()
print(held() - before)
over.set()
"""


def kept_after(beginning: str) -> float:
    ran = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", _STORY.format(beginning)], check=True, capture_output=True, text=True
    )
    return float(ran.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have their own ways")
def test_what_large_things_took_of_memory_is_given_back() -> None:
    assert kept_after("pass") > 10  # what would be kept: this is measured rightly
    assert kept_after("give_back_large_blocks()") < 5
