"""A Python module run as a child process that ends with this one, even if this one is killed."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from e0_system.locks import name_holder
from e0_system.processes import end_with_parent


@contextmanager
def child_process(
    module: str, arguments: Sequence[str], log: TextIO, lock: int, threads: int | None = None
) -> Iterator[subprocess.Popen]:
    """`python -m module arguments`, which ends with the block, and with this thread.

    What it prints goes into `log`. It inherits `lock`, the descriptor of `own_directory`, so that a
    directory stays its own until it is really gone. threads: of its computations.
    """
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", __name__, str(os.getpid()), module, *arguments]
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=environment, pass_fds=(lock,)
    )
    try:
        name_holder(lock, process.pid)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


def main() -> None:
    """In the child: PARENT MODULE ARGUMENTS..."""
    parent, module = sys.argv.pop(1), sys.argv.pop(1)
    end_with_parent(int(parent))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
