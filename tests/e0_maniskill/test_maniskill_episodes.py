"""Experts, their noise, and episode files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e0_experts.episodes import Episode, load_episode, run_expert, save_episode
from e0_maniskill import TASKS, ManiSkillEnv
from e0_maniskill.demonstrations import demonstrator

SEEDS = (5000, 5001, 5002)


def record_executed(env: ManiSkillEnv, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The list to which every action that reaches the simulator is added."""
    executed: list[np.ndarray] = []
    step: Callable = env.step

    def recording_step(action: np.ndarray) -> tuple:
        executed.append(action)
        return step(action)

    monkeypatch.setattr(env, "step", recording_step)
    return executed


@pytest.mark.parametrize("task", TASKS)
def test_expert_succeeds_within_the_limit(task: str) -> None:
    env = ManiSkillEnv(task, state_only=True)
    for seed in SEEDS:
        episode = run_expert(env, demonstrator, seed)
        assert episode.success, f"seed {seed} failed"
        assert episode.instruction == env.task_description
        assert episode.length <= TASKS[task].episode_length
        assert episode.actions.dtype == np.float32
        assert np.abs(episode.actions).max() <= 1
        assert episode.actions.shape == (episode.length, 7)
        assert episode.proprioception.shape == (episode.length, 16)
        assert episode.environment_state.shape == (episode.length, 17)
    env.close()


def test_hold_steps_go_on_after_the_success() -> None:
    env = ManiSkillEnv("PickCube-v1", state_only=True)
    plain = run_expert(env, demonstrator, 5000)
    held = run_expert(env, demonstrator, 5000, hold_steps=4)
    assert held.success and held.length == plain.length + 4
    np.testing.assert_array_equal(held.actions[: plain.length], plain.actions)
    cube, goal = held.environment_state[-1, 3:6], held.environment_state[-1, :3]
    assert np.linalg.norm(cube - goal) < 0.025, "the cube stays at the goal"
    with pytest.raises(ValueError, match="hold_steps must be at least 0, got -1"):
        run_expert(env, demonstrator, 5000, hold_steps=-1)
    env.close()


def test_noise_disturbs_what_is_executed_and_not_what_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = ManiSkillEnv("PegInsertionSide-v1", state_only=True)
    executed = record_executed(env, monkeypatch)
    episode = run_expert(env, demonstrator, 5000, action_noise=0.1, noise_probability=0.7)
    difference = np.stack(executed) - episode.actions
    assert not difference[:, 3:].any(), "only translations are disturbed"
    disturbed = np.any(difference[:, :3], axis=1)
    assert 0.3 < disturbed.mean() < 0.8
    assert np.abs(np.stack(executed)).max() <= 1
    # From the moment the peg is before the hole until it is in, nothing is disturbed.
    assert episode.success and not disturbed[-5:].any()
    closing = np.flatnonzero(np.diff(episode.actions[:, 6]) < 0)[0] + 1
    assert not disturbed[closing : closing + 4].any()
    env.close()


def test_noise_depends_on_the_seed_only() -> None:
    env = ManiSkillEnv("PushCube-v1", state_only=True)
    first = run_expert(env, demonstrator, 5, action_noise=0.15)
    run_expert(env, demonstrator, 6, action_noise=0.15)
    again = run_expert(env, demonstrator, 5, action_noise=0.15)
    np.testing.assert_array_equal(first.actions, again.actions)
    np.testing.assert_array_equal(first.environment_state, again.environment_state)
    clean = run_expert(env, demonstrator, 5)
    np.testing.assert_array_equal(first.actions[0], clean.actions[0])
    assert not np.array_equal(first.proprioception[:5], clean.proprioception[:5])
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"action_noise": -0.1}, "action_noise"),
        ({"action_noise": float("nan")}, "action_noise"),
        ({"noise_probability": 1.5}, "noise_probability"),
    ],
)
def test_impossible_noise_is_refused(arguments: dict[str, Any], message: str) -> None:
    env = ManiSkillEnv("PushCube-v1", state_only=True)
    with pytest.raises(ValueError, match=message):
        run_expert(env, demonstrator, 0, **arguments)
    env.close()


def test_pictures_belong_to_their_steps(rendering: None) -> None:
    env = ManiSkillEnv("PushCube-v1", image_size=32)
    episode = run_expert(env, demonstrator, 5000)
    assert episode.images["base_camera"].shape == (episode.length, 32, 32, 3)
    observation, _ = env.reset(seed=5000)
    for step in range(3):
        np.testing.assert_array_equal(
            episode.images["base_camera"][step], observation["pixels"]["base_camera"]
        )
        observation, *_ = env.step(episode.actions[step])
    env.close()


@pytest.fixture
def episode() -> Episode:
    rng = np.random.default_rng(0)
    return Episode(
        task="PushCube-v1",
        instruction="push the cube gently",
        seed=7,
        success=True,
        images={"side": rng.integers(0, 256, (4, 8, 6, 3)).astype(np.uint8)},
        proprioception=rng.normal(size=(4, 16)).astype(np.float32),
        environment_state=rng.normal(size=(4, 3)).astype(np.float32),
        actions=rng.uniform(-1, 1, (4, 7)).astype(np.float32),
    )


def test_episode_file_holds_everything(episode: Episode, tmp_path: Path) -> None:
    save_episode(episode, tmp_path / "episode.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["episode.npz"]
    loaded = load_episode(tmp_path / "episode.npz")
    assert (loaded.task, loaded.seed, loaded.success) == ("PushCube-v1", 7, True)
    assert loaded.instruction == "push the cube gently"
    assert loaded.length == 4 and loaded.images.keys() == {"side"}
    np.testing.assert_array_equal(loaded.images["side"], episode.images["side"])
    for name in ("proprioception", "environment_state", "actions"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(episode, name))
        assert getattr(loaded, name).dtype == np.float32


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_file_is_detected(episode: Episode, tmp_path: Path, share: float) -> None:
    path = tmp_path / "episode.npz"
    save_episode(episode, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="not a whole episode file"):
        load_episode(path)


def test_flipped_bytes_are_detected(episode: Episode, tmp_path: Path) -> None:
    path = tmp_path / "episode.npz"
    save_episode(episode, path)
    damaged = bytearray(path.read_bytes())
    middle = damaged.index(b"images.side") + 200
    damaged[middle] ^= 0xFF
    path.write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match="not a whole episode file"):
        load_episode(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", actions=np.zeros(3))
    with pytest.raises(ValueError, match="not a whole episode file"):
        load_episode(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError):
        load_episode(tmp_path / "missing.npz")


def test_failed_save_leaves_the_old_file(
    episode: Episode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "episode.npz"
    save_episode(episode, path)
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_episode(episode, path)
    assert path.read_bytes() == before
