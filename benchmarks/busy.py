"""What another busy program costs training, by how long its threads spin while they wait.

    python benchmarks/busy.py --out benchmarks/results/busy-2-cpu-cores.json

PyTorch divides an operation over the cores, and a thread that is done waits for the others: by
default of GNU's OpenMP it spins 300 000 times before it sleeps, keeping a core from the very thread
that it waits for where a browser or a simulator takes another. `e0` lets it spin 1000 times
(GOMP_SPINCOUNT); not at all is OMP_WAIT_POLICY=passive. This measures a training step each way, in
turns: alone, and beside programs that keep one core and all cores busy. Each way is a process of
its own, since the setting is read once, and waits without a sound while another is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from e0_bench.files import write_json

WAYS = {
    "long": {},
    "short": {"GOMP_SPINCOUNT": "1000"},
    "not at all": {"OMP_WAIT_POLICY": "passive"},
}
BATCH, STEPS_A_TURN = 64, 4


def main() -> None:
    options = _parser().parse_args()
    if options.worker:
        serve_steps()
        return
    cores = os.cpu_count() or 1
    rows = []
    for busy in sorted({0, 1, cores}):
        with busy_programs(busy):
            rows += [{"busy": busy, "cores": cores} | row for row in measure(options.turns)]
        print("\n".join(json.dumps(row) for row in rows[-len(WAYS) :]))
    if options.out:
        write_json(options.out, {"training_step": rows})


def measure(turns: int) -> list[dict[str, Any]]:
    """Milliseconds of a training step in each way, over so many turns."""
    workers = {name: _worker(environment) for name, environment in WAYS.items()}
    taken: dict[str, list[float]] = {name: [] for name in workers}
    try:
        for turn in range(turns + 1):
            for name, worker in workers.items():
                milliseconds = _turn(worker)
                if turn:  # the first warms up
                    taken[name].append(milliseconds)
    finally:
        for worker in workers.values():
            worker.kill()
    return [
        {
            "threads_spin": name,
            "median_ms": round(float(np.median(times)), 1),
            "p95_ms": round(float(np.percentile(times, 95)), 1),
            "turns": len(times),
        }
        for name, times in taken.items()
    ]


def _worker(environment: dict[str, str]) -> subprocess.Popen[str]:
    settings = {name for way in WAYS.values() for name in way}
    usual = {name: value for name, value in os.environ.items() if name not in settings}
    return subprocess.Popen(
        [sys.executable, __file__, "--worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=usual | environment | {"OMP_NUM_THREADS": str(os.cpu_count() or 1)},
    )


def _turn(worker: subprocess.Popen[str]) -> float:
    assert worker.stdin and worker.stdout
    print("go", file=worker.stdin, flush=True)
    answer = worker.stdout.readline()
    if not answer:
        raise RuntimeError("a worker ended; its error is above")
    return float(answer)


def serve_steps() -> None:
    """In a worker: for every line that comes, take some training steps and print the milliseconds
    of one."""
    import torch

    from e0_bench.speed.timing import Case, Machine, training_step

    machine = Machine(torch.device("cpu"), torch.float32, runs=1)
    step = training_step(Case("tiny", cameras=1, horizon=8, batch=BATCH), machine)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(STEPS_A_TURN):
            step()
        print(1000 * (time.perf_counter() - start) / STEPS_A_TURN, flush=True)


@contextmanager
def busy_programs(number: int) -> Iterator[None]:
    """So many other programs, each of which keeps a core busy."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: 0"]) for _ in range(number)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
