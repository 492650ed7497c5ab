"""A precise timer: the event loop's timers have a resolution of milliseconds, too coarse for these latencies."""

import ctypes
import os
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000  # TFD_NONBLOCK | TFD_CLOEXEC
_SHORTEST_NS = 1  # 0 would disarm the timer


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Timer(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Pacer:
    """Calls `wake` in the loop once, `seconds` after `arm(seconds)`, by means of Linux's timerfd."""

    def __init__(self, loop: AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self._handle < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop, self._wake = loop, wake
        loop.add_reader(self._handle, self._fired)

    def arm(self, seconds: float) -> None:
        nanoseconds = max(_SHORTEST_NS, int(seconds * 1e9))
        value = _Timespec(*divmod(nanoseconds, 1_000_000_000))
        self._libc.timerfd_settime(self._handle, 0, ctypes.byref(_Timer(_Timespec(0, 0), value)), None)

    def close(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)

    def _fired(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._handle, 8)
        self._wake()
