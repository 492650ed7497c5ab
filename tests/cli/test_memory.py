"""Memory that a process still uses after its large objects are freed."""

import platform
import subprocess
import sys

import pytest

# Twelve threads each allocate 2 MB at the same time and free it, three times. Prints the growth of the process in MB.
_PROGRAM = """
import threading
from pathlib import Path
from app.cli.process import give_back_large_blocks

def resident_mb():
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
before = resident_mb()
threads = [threading.Thread(target=use) for _ in range(12)]
for thread in threads:
    thread.start()
for _ in range(4):
    together.wait()
print(resident_mb() - before)
over.set()
"""


# Copies pieces of a body, as the server does. Prints how many pages of memory the system handed out for each piece.
_PIECES = """
import resource
from app.cli.process import give_back_large_blocks

give_back_large_blocks()
for is_warm in (False, True):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(200):
        copy = bytearray(bytes(256_000))
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 200)
"""


def growth_after(setup: str) -> float:
    ran = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", _PROGRAM.format(setup)], check=True, capture_output=True, text=True
    )
    return float(ran.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries manage memory in other ways")
def test_memory_of_large_objects_is_returned_to_the_system() -> None:
    assert growth_after("pass") > 10  # without the tuning: proves that the measurement works
    assert growth_after("give_back_large_blocks()") < 5


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries manage memory in other ways")
def test_the_pieces_of_a_body_reuse_memory() -> None:
    ran = subprocess.run([sys.executable, "-c", _PIECES], check=True, capture_output=True, text=True)  # noqa: S603 - our own code

    assert float(ran.stdout) < 10  # two blocks of 256,000 bytes have 125 pages
