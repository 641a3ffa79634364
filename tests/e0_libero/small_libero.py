"""LIBERO's own tasks without pictures, which are quick."""

from __future__ import annotations

import os
from typing import Any

import torch

from e0_libero.assets import wire

STILL = [0, 0, 0, 0, 0, 0, -1]


def reset(suite: str, number: int, initial: int = 0) -> Any:
    """A task of a suite at one of its official initial states, settled; LIBERO's `ControlEnv`."""
    wire()
    from libero.libero import benchmark, get_libero_path
    from libero.libero.envs.env_wrapper import ControlEnv

    task = benchmark.get_benchmark_dict()[suite]().get_task(number)
    places = (
        os.path.join(get_libero_path(kind), task.problem_folder, file)
        for kind, file in (("bddl_files", task.bddl_file), ("init_states", task.init_states_file))
    )
    file, states = places
    env = ControlEnv(
        bddl_file_name=file, use_camera_obs=False, has_offscreen_renderer=False, hard_reset=False
    )
    env.seed(0)
    env.reset()
    env.set_init_state(torch.load(states, weights_only=False)[initial])
    for _ in range(10):
        env.step(STILL)
    return env
