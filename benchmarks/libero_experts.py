"""How often the experts solve LIBERO's tasks, from their official initial states.

    python benchmarks/libero_experts.py --out benchmarks/results/libero-experts-2-cpu-cores.json

Results: {"tasks": [{"suite", "number", "goal", "successes", "episodes", "interval",
"mean_steps", "failed"} or {"suite", "number", "error"}], "suites": {suite: successes, episodes,
interval}, "machine": text}.
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
        goal = " and ".join(" ".join(part) for part in env.env.parsed_problem["goal_state"])
    return {
        "suite": suite,
        "number": number,
        "goal": goal,
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
    results: list[dict[str, Any]] = []
    with WorkerPool(arguments.workers, TIME_LIMIT) as pool:
        jobs = {task: pool.submit(try_task, *task, arguments.episodes) for task in tasks}
        for (suite, number), job in tqdm(jobs.items(), unit="task"):
            try:
                told = job.result()
                rate = Rate(told["successes"], told["episodes"])
                line = f"{told['goal']}: {rate}, failed: {told['failed']}"
            except Exception as error:  # of one task; the others are worth knowing
                told = {
                    "suite": suite,
                    "number": number,
                    "error": f"{type(error).__name__}: {error}",
                }
                line = told["error"]
            tqdm.write(f"{suite}/{number} {line}")
            results.append(told)
            write_results(arguments.out, results)
    for suite, rate in over_suites(results).items():
        print(f"{suite}: {Rate(rate['successes'], rate['episodes'])}")


def over_suites(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates of whole suites, of the tasks that were tried."""
    tried = [told for told in results if "episodes" in told]
    suites = {}
    for suite in dict.fromkeys(told["suite"] for told in tried):
        own = [told for told in tried if told["suite"] == suite]
        counts = (sum(told[name] for told in own) for name in ("successes", "episodes"))
        suites[suite] = rate_of(*counts)
    return suites


def write_results(path: Path, results: list[dict[str, Any]]) -> None:
    machine = platform.platform()
    write_json(path, {"tasks": results, "suites": over_suites(results), "machine": machine})


if __name__ == "__main__":
    main()
