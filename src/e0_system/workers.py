"""Processes for calls that may crash or hang: how many, and on which machines."""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from queue import LifoQueue
from typing import Any

from e0_system.cluster import ClusterProcess, connect

TRIES = 2


@dataclass(frozen=True)
class Processes:
    """How many calls are carried out at the same time, and where.

    Raises ValueError for fewer than one worker, and for shares of machines without a cluster.
    """

    workers: int = 2
    """Processes."""
    cluster: str | None = None
    """HOST:PORT of the head of a Ray cluster that this machine belongs to: the processes are spread
    over its machines. If not given, they are this machine's."""
    worker_cpus: int = 1
    """With --cluster: the CPUs that each process gets."""
    worker_gpus: float = 0.0
    """With --cluster: the share of a GPU that each process gets, as in 0.25."""

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("worker_cpus", 1), ("worker_gpus", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.cluster is None and (self.worker_cpus, self.worker_gpus) != (1, 0):
            raise ValueError("worker_cpus and worker_gpus are of a cluster: give --cluster, too")


class WorkerLostError(RuntimeError):
    """A call could not be carried out: each process that tried it died or hung."""


class WorkerPool(Executor):
    """Processes for calls that may crash or hang, as drivers do.

    A process that is still at the same call after `time_limit` seconds, if there is a limit, ends
    itself, telling on stderr where it hung. Such a call, or one whose process or machine died, is
    tried once more in another process; then its future raises WorkerLostError. Other calls go on
    undisturbed. Raises ClusterError where there is no such cluster, or no room in it.
    """

    def __init__(
        self,
        processes: Processes,
        time_limit: float | None = None,
        initializer: Callable[..., None] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        self._time_limit = time_limit
        self._new = _maker(processes, initializer, initargs)
        # A thread for each process, though any may take any: one that is lost may be long in
        # coming again, where the machines that are left are busy.
        self._threads = ThreadPoolExecutor(processes.workers)
        self._idle: LifoQueue[Executor | None] = LifoQueue()
        self._processes: set[Executor] = set()
        self._ended = threading.Event()
        for _ in range(processes.workers):
            self._processes.add(self._new(self._idle.put))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The call's future result; the function and its arguments must be picklable."""
        return self._threads.submit(self._call, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, once the calls that they are at have ended; those of a cluster at
        once where futures are cancelled."""
        if cancel_futures:
            self._ended.set()
            self._threads.shutdown(wait=False, cancel_futures=True)
            for process in tuple(self._processes):
                self._idle.put(None)  # for a call that waits for a process
                if isinstance(process, ClusterProcess):
                    process.kill()
        self._threads.shutdown(wait=wait)
        for process in self._processes:
            process.shutdown(wait=wait, cancel_futures=cancel_futures)

    def _call(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        for attempt in range(1, TRIES + 1):
            process = self._idle.get()
            if process is None:
                raise CancelledError
            began = time.monotonic()
            try:
                result = process.submit(_limited, self._time_limit, fn, args, kwargs).result()
            except BrokenProcessPool as loss:
                self._replace(process)
                if attempt == TRIES:
                    raise WorkerLostError(self._told(process, began, loss)) from loss
            except BaseException:
                self._idle.put(process)
                raise
            else:
                self._idle.put(process)
                return result

    def _told(self, process: Executor, began: float, loss: BrokenProcessPool) -> str:
        if self._time_limit is not None and time.monotonic() - began >= self._time_limit:
            limit = f"{self._time_limit:g} s"
            return f"a worker process was still at it after {limit}, {TRIES} times over"
        # In a cluster the loss says on which machine, or what that machine lacks.
        why = f": {loss}" if isinstance(process, ClusterProcess) else ""
        return f"a worker process died, {TRIES} times over, perhaps for want of memory{why}"

    def _replace(self, lost: Executor) -> None:
        """A new process in place of a lost one, unless all are being ended."""
        # To its end: its manager, in Python 3.12, hangs if it drops the last reference.
        lost.shutdown()
        self._processes.discard(lost)
        if self._ended.is_set():
            raise CancelledError
        self._processes.add(self._new(self._idle.put))


Maker = Callable[[Callable[[Executor], None]], Executor]
"""Makes one process, and passes it to a function as soon as it can be used."""


def _maker(
    processes: Processes, initializer: Callable[..., None] | None, initargs: tuple[Any, ...]
) -> Maker:
    if processes.cluster is not None:
        share = {"CPU": float(processes.worker_cpus), "GPU": processes.worker_gpus}
        connect(processes.cluster, processes.workers, share)
        return lambda ready: ClusterProcess(share, initializer, initargs, ready)

    def local(ready: Callable[[Executor], None]) -> Executor:
        process = ProcessPoolExecutor(1, get_context("spawn"), initializer, initargs)
        ready(process)
        return process

    return local


def _limited(
    seconds: float | None, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """In a worker: the call's result. The watch is no Python thread, so that it also ends a process
    that hangs in a driver."""
    if seconds is None:
        return fn(*args, **kwargs)
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        return fn(*args, **kwargs)
    finally:
        faulthandler.cancel_dump_traceback_later()
