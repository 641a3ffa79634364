"""Whose an output directory is: one process at a time writes into it."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 15.0  # seconds; a killed process with much memory holds its locks for a while
LOCK = ".lock"


class DirectoryInUseError(RuntimeError):
    """Another process is writing into a directory."""


@contextmanager
def own_directory(
    directory: Path, lock: Path | None = None, *, patience: float | None = None
) -> Iterator[int]:
    """Be the only one that writes into this directory while the block runs.

    lock: the file that is locked, `directory/.lock` if not given; it is there for as long as the
    block runs, or until the next one where a kill left it, and names its holder. The block gets its
    descriptor: a child process that inherits it holds the lock too, for as long as it lives.
    patience: seconds to wait for another process, after saying so; `PATIENCE` if not given.

    Raises DirectoryInUseError, naming the process, if another one holds it after that.
    """
    lock = lock or directory / LOCK
    new = not lock.parent.exists()
    descriptor = _take(lock, directory, PATIENCE if patience is None else patience)
    try:
        name_holder(descriptor, os.getpid())
        yield descriptor
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)
        if new:
            with suppress(OSError):  # it holds something by now, as it should
                lock.parent.rmdir()


def name_holder(descriptor: int, process: int) -> None:
    """Write into a held lock which process to name to those that wait for it."""
    with suppress(OSError):  # on a full disk the lock holds without a name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {process} on {os.uname().nodename}".encode(), 0)


def _take(lock: Path, directory: Path, patience: float) -> int:
    """The descriptor of the lock's file, once it is held."""
    deadline = time.monotonic() + patience
    told = False
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its last holder has just removed the directory
            continue
        except FileExistsError:  # it did so between two looks of `mkdir`; or a file is in its place
            if lock.parent.exists() and not lock.parent.is_dir():
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_there(lock, descriptor):
                return descriptor
            os.close(descriptor)  # its last holder removed it meanwhile
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode() or "another process"
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise DirectoryInUseError(
                    f"{holder} is writing into {directory}; wait for it or end it"
                ) from None
            if not told:
                print(f"Waiting for {holder}, which writes into {directory}", file=sys.stderr)
                told = True
            time.sleep(0.1)
        except BaseException:
            os.close(descriptor)
            raise


def _is_there(lock: Path, descriptor: int) -> bool:
    """Whether the open file is still the one of this name."""
    try:
        return os.path.samestat(os.stat(lock), os.fstat(descriptor))
    except FileNotFoundError:
        return False
