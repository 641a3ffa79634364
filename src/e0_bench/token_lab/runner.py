"""Runs of the token lab side by side, with progress and kept results."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing.sharedctypes import Synchronized

import torch
from tqdm import tqdm

from e0_bench.futures import failed_last
from e0_bench.token_lab.decodings import OWN
from e0_bench.token_lab.measure import execute
from e0_bench.token_lab.results import ResultsFile, Row
from e0_bench.token_lab.settings import LabSettings, Run
from e0_system.processes import end_with_parent

_finished_steps: Synchronized | None = None  # of all workers together; set in each by _start_worker


def run_lab(
    settings: LabSettings, runs: Sequence[Run], results: ResultsFile, workers: int
) -> list[Row]:
    """Execute the runs that the results lack and return all rows of the given runs, in their order.

    Every run has a process and one thread to itself, so that speeds are those of one core. An error
    of a run ends the lab, with a note which run it was; what was finished before is kept. Raises
    ValueError for fewer than one worker."""
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    missing = results.missing(runs)
    training = sum(run.trains for run in missing)
    with tqdm(total=training * settings.train_steps, unit="step", smoothing=0.05) as bar:
        for run, rows in _executed(missing, settings, workers, bar):
            results.add(rows)
            bar.write(f"{run}: {_brief(rows)}")
    return [row for run in runs for row in results.of(run)]


def _executed(
    runs: Sequence[Run], settings: LabSettings, workers: int, bar: tqdm
) -> Iterator[tuple[Run, list[Row]]]:
    """Each run with its rows, in the order in which they finish."""
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(counter,))
    try:
        pending = {pool.submit(_execute_in_worker, run, settings): run for run in runs}
        while pending:
            finished, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            bar.update(counter.value - bar.n)
            for future in failed_last(finished):
                run = pending.pop(future)
                try:
                    yield run, future.result()
                except Exception as error:
                    error.add_note(f"in the run {run}")
                    raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(counter: Synchronized) -> None:
    global _finished_steps
    _finished_steps = counter
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    end_with_parent(parent.pid)
    torch.set_num_threads(1)


def _execute_in_worker(run: Run, settings: LabSettings) -> list[Row]:
    def progress(steps: int) -> None:
        assert _finished_steps is not None
        with _finished_steps.get_lock():
            _finished_steps.value += steps

    return execute(run, settings, progress)


def _brief(rows: Sequence[Row]) -> str:
    own = [row for row in rows if row["decoding"] == OWN]
    steps = "/".join(str(row["denoising_steps"] or "-") for row in own)
    coherence = "/".join(f"{row['coherence']:.2f}" for row in own)
    speed = rows[0]["steps_per_second"]
    training = "" if speed is None else f", {speed:.1f} steps/s"
    return f"coherence {coherence} at K={steps}{training}"
