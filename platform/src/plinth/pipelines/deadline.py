"""A time limit on a block of plain code, in the main thread and in others.

In the main thread the limit is a SIGALRM, which interrupts blocking system calls too. In another thread it is an
exception set by the interpreter, which arrives when the thread runs Python code next: code that stays inside C
(a long query, a fit) ends first. Prefect's own engine makes the same choice.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class DeadlineExceeded(BaseException):
    """The block took longer than its limit. Never leaves the pipelines room: runners translate it.

    Not an `Exception`, so that a step's own `except Exception` does not swallow it.
    """


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise `DeadlineExceeded` inside the block after `seconds`; None sets no limit. May be nested."""
    if seconds is None:
        yield
    elif threading.current_thread() is threading.main_thread():
        with _alarm(max(seconds, 1e-6)):
            yield
    else:
        with _watcher(max(seconds, 0.0)):
            yield


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise DeadlineExceeded

    previous_handler = signal.signal(signal.SIGALRM, ring)
    started = time.monotonic()
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous_handler)
        if outer:
            left = outer - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-6))


@contextmanager
def _watcher(seconds: float) -> Iterator[None]:
    thread_id = threading.get_ident()
    lock = threading.Lock()
    over = False

    def ring() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread_id), ctypes.py_object(DeadlineExceeded)
                )

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
        timer.cancel()
