"""LIBERO's tasks without pictures: quick enough to try experts on all of their initial states."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from io import StringIO
from typing import Any

import torch

from e0_libero.assets import wire
from e0_libero.experts import Expert

STEP_LIMITS = {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520}
"""Of episodes, by suite: what published evaluations use (OpenVLA, and LeRobot after it)."""
TASKS = 10  # of each of these suites
SETTLING_STEPS = 10  # before an episode begins, in which objects come to rest
STILL = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]


class UnknownTaskError(ValueError):
    """A suite or a task that does not exist."""


@contextmanager
def opened(suite: str, number: int) -> Iterator[tuple[Any, Any]]:
    """A task of a suite, LIBERO's `ControlEnv`, and its official initial states (50, n).

    Raises UnknownTaskError, and AssetsMissingError.
    """
    wire()
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)  # it recommends settings
    library = import_module("libero.libero")
    if suite not in STEP_LIMITS or not 0 <= number < TASKS:
        raise UnknownTaskError(
            f"no task {suite}/{number}; known: {', '.join(STEP_LIMITS)}, each 0 to {TASKS - 1}"
        )
    with redirect_stdout(StringIO()):  # it tells the order of its tasks
        task = (
            import_module("libero.libero.benchmark").get_benchmark_dict()[suite]().get_task(number)
        )
    file = os.path.join(library.get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
    states = os.path.join(
        library.get_libero_path("init_states"), task.problem_folder, task.init_states_file
    )
    env = import_module("libero.libero.envs.env_wrapper").ControlEnv(
        bddl_file_name=file, use_camera_obs=False, has_offscreen_renderer=False, hard_reset=False
    )
    try:
        yield env, torch.load(states, weights_only=False)  # NumPy's arrays, of the package
    finally:
        env.close()


def begin(env: Any, state: Any) -> None:
    """Bring a task to an initial state (n,), settled."""
    env.seed(0)
    env.reset()
    env.set_init_state(state)
    for _ in range(SETTLING_STEPS):
        env.step(STILL)


def solve(env: Any, step_limit: int) -> int | None:
    """Let an expert solve a task that has begun: after how many steps it has; None if it has not
    at the limit."""
    expert = Expert(env)
    for step in range(step_limit):
        env.step(expert.act())
        if env.check_success():
            return step + 1
    return None
