"""How often the experts solve LIBERO's tasks, from their official initial states.

    python benchmarks/libero_experts.py --out benchmarks/results/libero-experts-2-cpu-cores.json

Results: {"tasks": [{"suite", "number", "instruction", "successes", "episodes", "interval",
"mean_steps", "failed"}], "suites": {suite: the same numbers}, "machine": text}. Times mean nothing.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from e0_bench.files import write_json
from e0_bench.statistics import Rate
from e0_libero.tasks import STEP_LIMITS, TASKS, begin, opened, solve
from e0_maniskill.processes import WorkerPool

TIME_LIMIT = 1800.0  # seconds of a task's episodes


def try_task(suite: str, number: int, episodes: int) -> dict[str, Any]:
    """The expert on the first `episodes` initial states of a task."""
    steps: list[int | None] = []
    with opened(suite, number) as (env, states):
        for state in states[:episodes]:
            begin(env, state)
            steps.append(solve(env, STEP_LIMITS[suite]))
        instruction = env.language_instruction
    return {
        "suite": suite,
        "number": number,
        "instruction": instruction,
        **rate_of(sum(step is not None for step in steps), len(steps)),
        "mean_steps": float(np.mean([step or STEP_LIMITS[suite] for step in steps])),
        "failed": [place for place, step in enumerate(steps) if step is None],
    }


def rate_of(successes: int, episodes: int) -> dict[str, Any]:
    """A success rate as data."""
    interval = Rate(successes, episodes).interval
    return {"successes": successes, "episodes": episodes, "interval": interval}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--suites", nargs="+", choices=list(STEP_LIMITS), default=list(STEP_LIMITS))
    parser.add_argument("--episodes", type=int, default=50, help="of each task, at most 50")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    tasks = [(suite, number) for suite in arguments.suites for number in range(TASKS)]
    with WorkerPool(arguments.workers, TIME_LIMIT) as pool:
        jobs = [pool.submit(try_task, *task, arguments.episodes) for task in tasks]
        results = []
        for job in tqdm(jobs, unit="task"):
            results.append(job.result())
            told = results[-1]
            tqdm.write(
                f"{told['suite']}/{told['number']} {told['instruction']}: "
                f"{Rate(told['successes'], told['episodes'])}, failed: {told['failed']}"
            )
    suites = {}
    for suite in arguments.suites:
        own = [told for told in results if told["suite"] == suite]
        solved, tried = (sum(told[name] for told in own) for name in ("successes", "episodes"))
        suites[suite] = rate_of(solved, tried)
        print(f"{suite}: {Rate(solved, tried)}")
    write_json(arguments.out, {"tasks": results, "suites": suites, "machine": platform.platform()})


if __name__ == "__main__":
    main()
