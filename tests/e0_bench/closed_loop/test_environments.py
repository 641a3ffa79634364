"""Environments of other types than ours: stepped as LeRobot's evaluation steps them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

from e0_bench.closed_loop import environments
from e0_bench.closed_loop.environments import (
    EnvironmentSettings,
    UnknownEnvironmentError,
    environment_names,
    open_environment,
)
from e0_bench.closed_loop.episodes import EpisodeJob
from e0_bench.closed_loop.runner import Assignment, Runner, RunnerSettings
from made_checkpoints import save_act

SHAPES = {"agent_pos": (4,), "environment_state": (17,)}


class Countdown(gymnasium.Env):
    """Ends, with success for an even seed, after as many steps as it was made with."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, steps: int, task_description: str = "") -> None:
        space = {name: spaces.Box(-np.inf, np.inf, shape) for name, shape in SHAPES.items()}
        self.observation_space = spaces.Dict(space)
        self.action_space = spaces.Box(-1, 1, (7,))
        self.steps, self._max_episode_steps = steps, 8
        self.task_description = task_description
        self.actions: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.seed, self.left = seed, self.steps
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict]:
        self.left -= 1
        self.actions.append(action)
        ended = self.left == 0
        success = ended and self.seed is not None and self.seed % 2 == 0
        return self._observe(), 0.5, ended, False, {"is_success": success}

    def _observe(self) -> dict[str, np.ndarray]:
        return {
            name: self.np_random.normal(size=shape).astype(np.float32)
            for name, shape in SHAPES.items()
        }


@EnvConfig.register_subclass("countdown")
@dataclass
class CountdownConfig(EnvConfig):
    """As LeRobot's single-task types: gym.make, which resets in the step that ends."""

    task: str | None = "Countdown-v0"
    steps: int = 5

    def __post_init__(self) -> None:
        self.features = {"action": PolicyFeature(FeatureType.ACTION, (7,))}
        self.features_map = {"action": "action"}

    @property
    def gym_id(self) -> str:
        return str(self.task)

    @property
    def gym_kwargs(self) -> dict:
        return {"steps": self.steps}


@EnvConfig.register_subclass("countdown_suite")
@dataclass
class CountdownSuiteConfig(CountdownConfig):
    """As LIBERO: a task is a suite of several."""

    task: str | None = "suite"

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict:
        def make(number: int) -> SyncVectorEnv:
            return SyncVectorEnv([lambda: Countdown(3 + number, f"count from {3 + number}")])

        return {str(self.task): {number: make(number) for number in range(3)}}


gymnasium.register("Countdown-v0", entry_point=Countdown)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_act(tmp_path_factory.mktemp("act"), 17)


@pytest.fixture(autouse=True)
def none_open() -> Iterator[None]:
    yield
    while environments._open:
        environments._open.popitem()[1].vector.close()


@pytest.mark.parametrize(("steps", "taken"), [(5, 5), (20, 8)])
def test_success_at_the_end_and_limit_of_steps(checkpoint: Path, steps: int, taken: int) -> None:
    """The end's outcome is found although the vector environment has begun anew by then."""
    settings = EnvironmentSettings("countdown", (f"steps={steps}",))
    runner = Runner(RunnerSettings(checkpoint, settings))
    for seed in (4, 5):
        job = EpisodeJob("act", "Countdown-v0", seed)
        result = runner.run(Assignment(job, runner.settings))
        assert (result.steps, result.total_reward) == (taken, 0.5 * taken)
        assert result.success is (steps == 5 and seed == 4)
        assert result.instruction == ""
        again = runner.run(Assignment(job, runner.settings))
        assert replace(again, latency_ms=0) == replace(result, latency_ms=0)


def test_actions_of_other_types_are_not_clipped(checkpoint: Path) -> None:
    runner = Runner(RunnerSettings(checkpoint, EnvironmentSettings("countdown", ("steps=8",))))
    result = runner.run(Assignment(EpisodeJob("act", "Countdown-v0", 0), runner.settings))
    actions = runner.environment("Countdown-v0").vector.envs[0].unwrapped.actions
    assert result.clipped_steps == 0
    assert np.abs(actions).max() > 1


def test_a_suite_stands_for_its_tasks() -> None:
    settings = EnvironmentSettings("countdown_suite")
    names = environment_names(settings, "suite")
    assert names == ["suite/0", "suite/1", "suite/2"]
    assert environment_names(settings, "suite/2") == ["suite/0", "suite/1", "suite/2"][2:]
    instructions = [open_environment(settings, name).instruction for name in names]
    assert instructions == ["count from 3", "count from 4", "count from 5"]
    assert open_environment(settings, "suite/1") is open_environment(settings, "suite/1")
    with pytest.raises(UnknownEnvironmentError, match="no task 'suite/3'; there are suite/0"):
        open_environment(settings, "suite/3")
    with pytest.raises(UnknownEnvironmentError, match="no task 'suite/3'; there are suite/0"):
        environment_names(settings, "suite/3")
    alone = EnvironmentSettings("countdown")
    assert environment_names(alone, "Countdown-v0") == ["Countdown-v0"]
    with pytest.raises(UnknownEnvironmentError, match="no task 'Countdown-v0/1'; there are "):
        environment_names(alone, "Countdown-v0/1")


def test_changed_options_take_the_place_of_earlier_ones() -> None:
    given = EnvironmentSettings("countdown", ("steps=7", "goal=2"))
    assert given.changed(("steps=8",)).options == ("goal=2", "steps=8")
    assert given.changed(()) == given


def test_options_at_their_default_are_the_same_benchmark() -> None:
    given = EnvironmentSettings("maniskill", ("state_only=false", "proprioception=compact"))
    assert given.changed_options() == {"proprioception": "compact"}
    assert EnvironmentSettings("countdown", ("steps=7",)).changed_options() == {"steps": 7}
