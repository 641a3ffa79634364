"""The tasks of LIBERO's four suites, and of what LIBERO-PRO makes of them, each called by its suite
and number: `libero_goal/3`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from typing import Any

import numpy as np
import torch

from e0_libero import plus, pro
from e0_libero.assets import wire

STEP_LIMITS = {"libero_spatial": 280, "libero_object": 280, "libero_goal": 300, "libero_10": 520}
"""Of episodes, by suite: what published evaluations use (OpenVLA, and LeRobot after it)."""
TASKS = 10  # of each of these suites
INITIAL_STATES = 50  # of each task


class UnknownTaskError(ValueError):
    """A suite or a task that does not exist."""


@dataclass(frozen=True)
class Task:
    """A task. instruction: what a policy is told. bddl_file: what makes up the scene and what must
    be true in the end. initial_states (50, n): of the official evaluation."""

    name: str
    instruction: str
    step_limit: int
    bddl_file: str
    initial_states: np.ndarray


def task_names(names: Sequence[str]) -> list[str]:
    """The tasks that names of tasks and of whole suites stand for. Raises UnknownTaskError."""
    tasks = []
    for name in names:
        found = re.fullmatch(r"(\w+)(?:/(\d+))?", name)
        known = [*STEP_LIMITS, *pro.suites()]
        if not found or found[1] not in known or int(found[2] or 0) >= TASKS:
            raise UnknownTaskError(
                f"no task {name}; known: {', '.join(known)}, or one of ten as libero_10/0; and for "
                f"evaluation, with the environment type libero_camera, {', '.join(plus.SUITES)}"
            )
        numbers = range(TASKS) if found[2] is None else [int(found[2])]
        tasks += [f"{found[1]}/{number}" for number in numbers]
    return tasks


def find_task(name: str) -> Task:
    """A task by its name. Raises UnknownTaskError, and AssetsMissingError."""
    (name,) = task_names([name])
    suite, _, number = name.partition("/")
    task = tasks_of(suite)[int(number)]

    def path(kind: str, file: str) -> str:
        folder = import_module("libero.libero").get_libero_path(kind)
        return os.path.join(folder, task.problem_folder, file)

    states = torch.load(path("init_states", task.init_states_file), weights_only=False)
    return Task(
        name,
        task.language,
        STEP_LIMITS[pro.changed(suite)],
        path("bddl_files", task.bddl_file),
        states,
    )


def tasks_of(suite: str) -> list[Any]:
    """The tasks of a suite as LIBERO tells of them, in order. Raises AssetsMissingError."""
    wire()
    with redirect_stdout(StringIO()):  # it tells the order of its tasks
        return import_module("libero.libero.benchmark").get_benchmark_dict()[suite]().tasks
