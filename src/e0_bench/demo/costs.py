"""What the demo costs: time of its phases, memory, milliseconds a chunk."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e0_bench.closed_loop.runner import Runner
from e0_bench.files import read_json, write_json


class Phases:
    """Seconds spent in each phase, added up over interrupted runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = read_json(path) if path.exists() else {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Time a phase. What a killed run spent is lost, what an interrupted one spent is kept."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
            write_json(self.path, self.seconds)


class PeakMemory:
    """Largest resident memory of this process and its children together, in MB, sampled;
    pages that they share count once. The largest of all interrupted and continued runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.megabytes: float = read_json(path) if path.exists() else 0.0

    def __enter__(self) -> PeakMemory:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        write_json(self.path, self.megabytes)

    def _watch(self) -> None:
        import psutil

        this = psutil.Process()
        while not self._stop.wait(1.0):
            total = 0
            for process in (this, *this.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            self.megabytes = max(self.megabytes, total / 2**20)


def chunk_latency(runner: Runner, task: str, repetitions: int = 200) -> dict[str, float]:
    """Milliseconds from an observation as the environment gives it to a chunk of actions."""
    import numpy as np

    environment = runner.environment(task)
    observation = environment.reset(seed=0)
    runner.warm_up(environment, observation, environment.instruction)
    times = []
    for _ in range(repetitions + 20):
        start = time.perf_counter()
        batch = runner.batch(environment, observation, environment.instruction)
        chunk = runner.policy.predict(batch)
        runner.postprocess(chunk.actions[0])
        times.append(1e3 * (time.perf_counter() - start))
    kept = times[20:]  # the first calls allocate and choose kernels
    return {
        "median": round(float(np.median(kept)), 2),
        "p95": round(float(np.percentile(kept, 95)), 2),
        "n": len(kept),
    }
