"""LIBERO-PRO's suites: the same scenes with things in other places, words or goals."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from e0_bench.closed_loop.environments import EnvironmentSettings, environment_names
from e0_libero import pro
from e0_libero.env import LiberoEnv
from e0_libero.scene import Scene
from e0_libero.tasks import find_task

pytestmark = pytest.mark.skipif(not pro.suites(), reason="LIBERO-PRO's suites: `make libero`")


def test_all_suites_are_there_and_lerobot_finds_them() -> None:
    assert len(pro.suites()) == 12
    names = environment_names(EnvironmentSettings("libero"), "libero_object_swap")
    assert names == [f"libero_object_swap/{number}" for number in range(10)]


def test_each_suite_changes_what_it_says() -> None:
    def goals(task: str) -> list[list[str]]:
        with closing(LiberoEnv(task, official_states=True)) as env:
            env.reset(seed=0)
            return Scene(env.simulator).goals

    usual = find_task("libero_goal/6")
    swapped, told, other = (find_task(f"libero_goal_{c}/6") for c in ("swap", "lan", "task"))
    assert usual.step_limit == swapped.step_limit == told.step_limit == other.step_limit
    assert usual.instruction == swapped.instruction
    assert len({usual.instruction, told.instruction, other.instruction}) == 3
    assert goals(told.name) == goals(swapped.name) == goals(usual.name) != goals(other.name)
    assert usual.initial_states.shape == swapped.initial_states.shape == (50, 79)
    apart = np.abs(usual.initial_states - swapped.initial_states).max(0)
    assert (apart > 0.05).any()


def test_suites_know_what_they_change() -> None:
    changed = {"libero_10_swap": "libero_10", "libero_10": "libero_10", "libero_90": "libero_90"}
    assert {name: pro.changed(name) for name in changed} == changed


def test_a_package_that_is_not_there_is_named(tmp_path: object) -> None:
    with pytest.raises(FileNotFoundError, match="bddl_files/libero_spatial_swap"):
        pro.main([f"{tmp_path}/nothing"])
    with pytest.raises(SystemExit, match="usage: python -m"):
        pro.main([])
