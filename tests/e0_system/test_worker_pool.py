"""Calls that crash or hang are tried once more, and then told; the others go on. Processes that
work on one thing end together."""

import atexit
import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from e0_system.processes import wait_for_all
from e0_system.workers import Processes, WorkerLostError, WorkerPool


def test_a_call_that_hangs_twice_is_lost_and_the_others_go_on() -> None:
    with WorkerPool(Processes(2), 0.5) as pool:
        hanging = pool.submit(time.sleep, 600)
        other = [pool.submit(abs, -number) for number in range(4)]
        assert [future.result() for future in other] == [0, 1, 2, 3]
        with pytest.raises(WorkerLostError, match=r"still at it after 0\.5 s, 2 times over"):
            hanging.result()
        assert pool.submit(abs, -5).result() == 5


def test_a_call_whose_process_dies_twice_is_lost() -> None:
    with WorkerPool(Processes(1), 600) as pool:
        with pytest.raises(WorkerLostError, match="died, 2 times over, perhaps for want of memory"):
            pool.submit(os._exit, 3).result()
        assert pool.submit(abs, -5).result() == 5


def end_badly_at_first(marker: Path, hangs: bool) -> str:
    """In a worker."""
    if marker.exists():
        return "done"
    marker.touch()
    if hangs:
        time.sleep(600)
    os._exit(3)


@pytest.mark.parametrize("hangs", [False, True])
def test_the_second_try_counts(hangs: bool, tmp_path: Path) -> None:
    with WorkerPool(Processes(1), 0.5 if hangs else 600) as pool:
        assert pool.submit(end_badly_at_first, tmp_path / "tried", hangs).result() == "done"


def note_its_end(marker: Path) -> None:
    """In a worker: its end takes a second."""
    atexit.register(lambda: (time.sleep(1), marker.touch()))


def test_left_with_its_calls_cancelled_the_pool_waits_for_its_processes(tmp_path: Path) -> None:
    pool = WorkerPool(Processes(1), 600)
    pool.submit(note_its_end, tmp_path / "ended").result()
    late = [pool.submit(time.sleep, 0.5) for _ in range(3)]
    pool.shutdown(cancel_futures=True)
    assert (tmp_path / "ended").exists()
    assert late[-1].cancelled()


def test_an_error_is_no_loss() -> None:
    with WorkerPool(Processes(1), 600) as pool, pytest.raises(TypeError, match="bad operand"):
        pool.submit(abs, "a").result()


def test_when_one_process_fails_the_others_end_and_only_it_is_named() -> None:
    context = get_context("spawn")
    processes = {
        "finished": context.Process(target=abs, args=(-5,)),
        "failing": context.Process(target=os._exit, args=(28,)),
        "long": context.Process(target=time.sleep, args=(600,)),
    }
    processes["finished"].start()
    processes["finished"].join()
    processes["long"].start()
    processes["failing"].start()
    began = time.monotonic()
    assert wait_for_all(processes) == {"failing": 28}
    assert time.monotonic() - began < 60
    assert processes["long"].exitcode == -signal.SIGTERM


def test_processes_that_all_end_well_are_waited_for() -> None:
    process = get_context("spawn").Process(target=time.sleep, args=(0.2,))
    process.start()
    assert wait_for_all({"short": process}) == {}
    assert process.exitcode == 0
