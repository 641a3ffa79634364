"""How often the experts solve LIBERO's tasks, from their official initial states.

    python benchmarks/libero_experts.py --out benchmarks/results/libero-experts-2-cpu-cores.json

The same as `e0 collect --env libero --tasks libero_spatial libero_object libero_goal libero_10
--dry-run --official-states --action-noise 0 --seed 0 --episodes 50`, with the results as a file:
{"tasks": [{"task", "successes", "episodes", "interval", "mean_steps", "failed"}], "suites": {suite:
successes, episodes, interval}, "machine": text}.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from e0_bench.files import write_json
from e0_bench.statistics import Rate
from e0_experts.collection import try_experts
from e0_experts.selection import Outcome
from e0_libero.demonstrations import LiberoSettings
from e0_libero.tasks import INITIAL_STATES, STEP_LIMITS, task_names


def told(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Outcomes as data."""
    rate = Rate(sum(outcome.success for outcome in outcomes), len(outcomes))
    return {"successes": rate.successes, "episodes": rate.episodes, "interval": rate.interval}


def told_task(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """A task's outcomes as data. A failed episode takes as many steps as there are."""
    return {
        "task": outcomes[0].task,
        **told(outcomes),
        "mean_steps": float(np.mean([outcome.steps for outcome in outcomes])),
        "failed": [outcome.seed for outcome in outcomes if not outcome.success],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--suites", nargs="+", choices=list(STEP_LIMITS), default=list(STEP_LIMITS))
    most = INITIAL_STATES
    parser.add_argument("--episodes", type=int, default=most, choices=range(1, most + 1))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    settings = LiberoSettings(image_size=None, official_states=True)
    seeds = dict.fromkeys(task_names(arguments.suites), range(arguments.episodes))
    tasks: list[dict[str, Any]] = []
    suites: dict[str, list[Outcome]] = {}
    with tqdm(total=len(seeds) * arguments.episodes, unit="episode") as bar:
        for outcomes in try_experts(
            seeds,
            workers=arguments.workers,
            settings=settings,
            on_episode=lambda _: bar.update(),
        ):
            tasks.append(told_task(outcomes))
            tqdm.write(f"{tasks[-1]['task']}: {tasks[-1]['successes']} of {len(outcomes)}")
            suites.setdefault(outcomes[0].task.partition("/")[0], []).extend(outcomes)
            rates = {suite: told(own) for suite, own in suites.items()}
            results = {"tasks": tasks, "suites": rates, "machine": platform.platform()}
            write_json(arguments.out, results)


if __name__ == "__main__":
    main()
