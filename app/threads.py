"""The priority of threads that work for long."""

import os
import sys
import threading
from contextlib import suppress

_LOWER_BY = 10  # about a tenth of the share of a processor, if all are busy
_LOWEST = 19


def give_way() -> None:
    """Let the event loop and the database have a processor before the calling thread, from now on.

    The initializer of a pool. It must not fail, because the pool would be broken. Only Linux has a priority for each
    thread. It is not meant for threads that run Python code for long: they hold the interpreter's lock meanwhile.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(_LOWEST, os.getpriority(os.PRIO_PROCESS, thread) + _LOWER_BY))
