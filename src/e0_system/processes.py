"""Child processes: that they end with their parent, and what happens when one dies or hangs."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

TRIES = 2

_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process as soon as its parent ends, however that ends.

    parent: the parent's process id; where it has ended already, this process ends at once. The
    parent must stay in the thread that started this process: the kernel watches that thread.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def wait_for_all(processes: Mapping[str, BaseProcess]) -> dict[str, int]:
    """Wait until these processes have ended; as soon as one fails, the others are ended.

    Returns the exit codes of those that failed by themselves, by their names.
    """
    running, failed = dict(processes), {}
    while running and not failed:
        wait([process.sentinel for process in running.values()], timeout=1.0)
        codes = {name: process.exitcode for name, process in running.items()}
        failed = {name: code for name, code in codes.items() if code}
        running = {name: running[name] for name, code in codes.items() if code is None}
    for process in running.values():
        process.terminate()
    for process in processes.values():
        process.join()
    return failed


class WorkerLostError(RuntimeError):
    """A call could not be carried out: each process that tried it died or hung."""


class WorkerPool(Executor):
    """Processes for calls that may crash or hang, as drivers do.

    A process that is still at the same call after `time_limit` seconds ends itself, telling on
    stderr where it hung. Such a call, or one whose process died, is tried once more in a new
    process; then its future raises WorkerLostError. Other calls go on undisturbed.
    """

    def __init__(
        self,
        workers: int,
        time_limit: float,
        initializer: Callable[..., None] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        self._time_limit = time_limit
        self._new = lambda: ProcessPoolExecutor(1, get_context("spawn"), initializer, initargs)
        # A thread for each process, which hands it one call at a time and replaces it.
        self._threads = ThreadPoolExecutor(workers)
        self._own = threading.local()
        self._processes: set[ProcessPoolExecutor] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The call's future result; the function and its arguments must be picklable."""
        return self._threads.submit(self._call, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, once the calls that they are at have ended."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        for process in self._processes:
            process.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _call(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        for _ in range(TRIES):
            if not hasattr(self._own, "process"):
                self._own.process = self._new()
                self._processes.add(self._own.process)
            began = time.monotonic()
            try:
                return self._own.process.submit(
                    _limited, self._time_limit, fn, args, kwargs
                ).result()
            except BrokenProcessPool:
                self._processes.discard(self._own.process)
                del self._own.process
            hung = time.monotonic() - began >= self._time_limit
        raise WorkerLostError(
            f"a worker process was still at it after {self._time_limit:g} s, {TRIES} times over"
            if hung
            else f"a worker process died, {TRIES} times over, perhaps for want of memory"
        )


def _limited(seconds: float, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """In a worker: the call's result. The watch is no Python thread, so that it also ends a process
    that hangs in a driver."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        return fn(*args, **kwargs)
    finally:
        faulthandler.cancel_dump_traceback_later()
