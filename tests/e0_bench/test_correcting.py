"""A policy begins an episode, the expert takes over."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from e0_bench.closed_loop.checkpoints import BenchmarkCheckpointError
from e0_bench.closed_loop.environments import EnvironmentSettings
from e0_bench.closed_loop.runner import Runner, RunnerSettings
from e0_bench.collect import CollectCommand, run_collect
from e0_bench.correcting import CorrectionError, PolicyLeadIn, policy_lead_in
from e0_experts.episodes import run_expert
from e0_maniskill import ManiSkillEnv
from e0_maniskill.demonstrations import demonstrator
from e0_system.workers import Processes
from lerobot_policy_e0.checkpoints import CheckpointError
from lerobot_policy_e0.whole_dataset import OutputInUseError
from made_checkpoints import save_policy

pytestmark = pytest.mark.usefixtures("one_thread")

TASK, SEED = "PickCube-v1", 31
OPTIONS = ("proprioception=compact", "state_only=true", "episode_length=12")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"), state_size=17, denoising_steps=1)


@pytest.fixture(scope="module")
def env() -> Iterator[ManiSkillEnv]:
    env = ManiSkillEnv(TASK, proprioception="compact", state_only=True, episode_length=12)
    yield env
    env.close()


def record_steps(env: Any, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The list to which every action that the environment is given is added."""
    step, given = env.step, []

    def recording(action: np.ndarray) -> Any:
        given.append(action.copy())
        return step(action)

    monkeypatch.setattr(env, "step", recording)
    return given


def length_of(lead_in: PolicyLeadIn, env: ManiSkillEnv, seed: int, given: list[np.ndarray]) -> int:
    """How many steps the policy takes in the episode of this seed."""
    given.clear()
    lead_in(env, seed)
    return len(given)


def actions_of_bench(checkpoint: Path, steps: int) -> list[np.ndarray]:
    """What the same policy does in the same episode in `e0 bench`."""
    from lerobot.utils.random_utils import set_seed

    runner = Runner(RunnerSettings(checkpoint, EnvironmentSettings("maniskill", OPTIONS)))
    environment = runner.environment(TASK)
    observation, actions = environment.reset(SEED), []
    set_seed(SEED)
    runner.policy.reset()
    for _ in range(steps):
        batch = runner.batch(environment, observation, environment.instruction)
        with torch.inference_mode():
            action = runner.postprocess(runner.policy.select_action(batch)).numpy().clip(-1, 1)
        actions.append(action[0])
        observation = environment.step(action).observation
    return actions


def test_the_policy_acts_as_in_a_benchmark_and_only_the_expert_is_recorded(
    checkpoint: Path, env: ManiSkillEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead_in: PolicyLeadIn = pickle.loads(pickle.dumps(policy_lead_in(checkpoint)))
    given = record_steps(env, monkeypatch)
    seen = lead_in(env, SEED)
    begun = len(given)
    assert 1 <= begun <= 12
    np.testing.assert_allclose(given, actions_of_bench(checkpoint, begun), atol=1e-6)

    given.clear()
    episode = run_expert(env, demonstrator, SEED, hold_steps=2, lead_in=lead_in)
    np.testing.assert_array_equal(episode.proprioception[0], seen["agent_pos"])
    np.testing.assert_array_equal(given[begun:], episode.actions)


def test_takeovers_are_drawn_from_the_seed_over_the_whole_episode(
    checkpoint: Path, env: ManiSkillEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead_in, given = policy_lead_in(checkpoint), record_steps(env, monkeypatch)
    lengths = [length_of(lead_in, env, seed, given) for seed in range(15)]
    assert min(lengths) <= 3 and max(lengths) >= 10 and len(set(lengths)) > 5


def test_where_the_policy_ends_the_episode_the_expert_takes_over_before(
    checkpoint: Path, env: ManiSkillEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, step = record_steps(env, monkeypatch), env.step
    lead_in = policy_lead_in(checkpoint)
    seed = next(seed for seed in range(99) if length_of(lead_in, env, seed, given) > 8)
    without = [action.copy() for action in given]

    def succeeds_at_the_fifth(action: np.ndarray) -> Any:
        observation, reward, ended, cut, info = step(action)
        return observation, reward, ended, cut, info | {"is_success": len(given) == 5}

    given.clear()
    monkeypatch.setattr(env, "step", succeeds_at_the_fifth)
    lead_in(env, seed)
    again = given[5:]
    assert len(again) < 5, "one of the steps before the fifth"
    np.testing.assert_array_equal(given[:5], without[:5])
    np.testing.assert_array_equal(again, without[: len(again)])


@pytest.fixture(scope="module")
def seeing(rendering: None) -> Iterator[ManiSkillEnv]:
    env = ManiSkillEnv(TASK, proprioception="compact", image_size=64, episode_length=12)
    yield env
    env.close()


@pytest.fixture
def seeing_policy(tmp_path: Path) -> PolicyLeadIn:
    return policy_lead_in(save_policy(tmp_path, state_size=3, image_size=64, denoising_steps=1))


def test_pictures_are_drawn_where_somebody_looks(
    seeing: ManiSkillEnv, seeing_policy: PolicyLeadIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = record_steps(seeing, monkeypatch)
    seed = next(s for s in range(99) if length_of(seeing_policy, seeing, s, given) == 6)
    seen = seeing_policy(seeing, seed)["pixels"]["base_camera"]
    assert seen.std() > 5, "the expert's first picture"
    actions = given[-6:]
    seeing.reset(seed=seed)
    for action in actions:
        observation = seeing.step(action)[0]
    np.testing.assert_array_equal(observation["pixels"]["base_camera"], seen)


def test_an_episode_that_ends_unseen_leaves_no_black_pictures(
    seeing: ManiSkillEnv, seeing_policy: PolicyLeadIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, given = seeing.step, record_steps(seeing, monkeypatch)
    seed = next(s for s in range(99) if length_of(seeing_policy, seeing, s, given) > 8)
    given.clear()

    def succeeds_at_the_first(action: np.ndarray) -> Any:
        given.append(action)
        observation, reward, ended, cut, info = step(action)
        return observation, reward, ended, cut, info | {"is_success": len(given) == 1}

    monkeypatch.setattr(seeing, "step", succeeds_at_the_first)
    seen = seeing_policy(seeing, seed)["pixels"]["base_camera"]
    assert len(given) == 1, "of one step none is left"
    assert seen.std() > 5 and not seeing.blind


def test_a_policy_of_other_observations_or_tasks_is_refused(
    checkpoint: Path, env: ManiSkillEnv, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="not a LeRobot checkpoint directory"):
        policy_lead_in(tmp_path)
    other = save_policy(tmp_path / "other", state_size=3, image_size=64)
    with pytest.raises(BenchmarkCheckpointError, match=r"does not fit PickCube-v1: it has .*64"):
        policy_lead_in(other)(env, SEED)
    lead_in = PolicyLeadIn(policy_lead_in(checkpoint).checkpoint, ("fold the towel",))
    with pytest.raises(CorrectionError, match="trained for 'fold the towel', and PickCube-v1 asks"):
        lead_in(env, SEED)


def test_corrections_are_collected_as_demonstrations_are(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = CollectCommand(
        output=tmp_path / "corrections",
        tasks=(TASK,),
        episodes=(1,),
        proprioception="compact",
        state_only=True,
        correct=checkpoint,
        processes=Processes(1),
    )
    run_collect(command)
    assert "1 episodes from" in capsys.readouterr().out
    record = json.loads((tmp_path / "corrections/meta/collection.json").read_text())
    assert set(record["settings"][TASK]["lead_in"]["policy"]) >= {"config.json"}
    with pytest.raises(OutputInUseError, match="collected with another settings"):
        run_collect(CollectCommand(**{**vars(command), "correct": None}))
