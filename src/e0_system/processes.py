"""Child processes: that they end with their parent, and all together when one fails."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

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
