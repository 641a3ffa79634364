"""Closed-loop evaluation: an episode's result depends on its job alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from e0_bench.closed_loop.decodings import make_decoding
from e0_bench.closed_loop.environments import EnvironmentSettings
from e0_bench.closed_loop.episodes import EpisodeJob, EpisodeResult
from e0_bench.closed_loop.runner import Assignment, Runner, RunnerSettings, clip_path
from made_checkpoints import IMAGE, save_act, save_policy

pytestmark = pytest.mark.usefixtures("one_thread")

TASK = "PushCube-v1"
LENGTH = 6
STATE_ONLY = EnvironmentSettings(
    "maniskill", ("proprioception=compact", "state_only=true", f"episode_length={LENGTH}")
)
TWO_STEPS, ONE_STEP = (make_decoding(str(k), {"denoising_steps": k}) for k in (2, 1))
JOBS = [EpisodeJob("e0", TASK, seed) for seed in (11, 12, 13)]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    checkpoint = save_policy(tmp_path_factory.mktemp("e0"), state_size=17)
    return Runner(RunnerSettings(checkpoint, STATE_ONLY, TWO_STEPS))


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(RunnerSettings(save_act(tmp_path_factory.mktemp("act"), 17), STATE_ONLY))


def run(runner: Runner, job: EpisodeJob, instructions: tuple[str, ...] = ()) -> EpisodeResult:
    """The result without the one thing that differs every time."""
    result = runner.run(Assignment(job, runner.settings, instructions))
    assert result.latency_ms > 0
    return replace(result, latency_ms=0.0)


def watch(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The batches that the policy gets, as they come."""
    select, seen = runner.policy.select_action, []

    def watched(batch: dict[str, Any]) -> Any:
        seen.append(dict(batch))
        return select(batch)

    monkeypatch.setattr(runner.policy, "select_action", watched)
    return seen


def test_result_follows_from_the_job_alone(runner: Runner) -> None:
    results = [run(runner, job) for job in JOBS]
    torch.manual_seed(5)
    np.random.seed(5)
    assert [run(runner, job) for job in reversed(JOBS)][::-1] == results
    for job, result in zip(JOBS, results, strict=True):
        assert result.job == job
        assert (result.steps, result.chunks, len(result.entropy)) == (LENGTH, 2, 2)
        assert all(0 < entropy < np.log(256) for entropy in result.entropy)
        assert result.clipped_steps == 0, "tokens lie in the action space"
        assert result.evaluations == 2
        assert (result.way, result.changes_of_mind, result.between) == (None, None, None)
    assert len({result.total_reward for result in results}) == len(JOBS)


def test_pictures_that_nobody_looks_at_are_not_taken(
    rendering: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The episode is the same bit by bit as with a picture at every step."""
    seeing = EnvironmentSettings(
        "maniskill", ("proprioception=compact", "image_size=32", f"episode_length={LENGTH}")
    )
    checkpoint = save_policy(tmp_path, state_size=3, image_size=32)
    runner = Runner(RunnerSettings(checkpoint, seeing, TWO_STEPS))
    seen = watch(runner, monkeypatch)
    sparing = run(runner, JOBS[0])
    lit = [bool(batch[IMAGE].any()) for batch in seen]
    steps = runner.policy.config.n_action_steps
    assert lit == [step % steps == 0 for step in range(LENGTH)]
    monkeypatch.setattr(Runner, "_looks_next", lambda *_: True)
    assert run(runner, JOBS[0]) == sparing
    assert all(bool(b[IMAGE].any()) for b in seen[LENGTH:])


def test_noise_of_the_policy_follows_the_seed(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the scene draws: with the same observations, another seed is another episode."""
    environment = runner.environment(TASK)
    reset = environment.reset
    monkeypatch.setattr(environment, "reset", lambda seed: reset(11))
    first, second = (run(runner, job) for job in JOBS[:2])
    assert first.total_reward != second.total_reward


def test_a_decoding_reaches_the_policy(runner: Runner) -> None:
    run(runner, JOBS[0])
    assert runner.policy.last_chunk.steps_taken == 2


def test_no_first_chunk_waits_for_what_can_be_made_ahead(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the clock runs, once for episodes that look alike; the episode stays the same."""
    expected = run(runner, JOBS[0])
    runner._warm.clear()
    order: list[str] = []

    def watch_calls(name: str) -> None:
        call = getattr(runner.policy, name)

        def noted(*given: Any, **own: Any) -> Any:
            order.append(name)
            return call(*given, **own)

        monkeypatch.setattr(runner.policy, name, noted)

    for name in ("warm_up", "reset", "select_action"):
        watch_calls(name)
    assert run(runner, JOBS[0]) == expected
    assert order == ["warm_up", "reset", *["select_action"] * LENGTH]
    assert run(runner, JOBS[0]) == expected
    assert order[LENGTH + 2 :] == ["reset", *["select_action"] * LENGTH]


def test_a_policy_of_another_type(act: Runner) -> None:
    """LeRobot's ACT: three steps a chunk, no entropy; actions outside the space are counted."""
    results = [run(act, job) for job in JOBS]
    assert [run(act, job) for job in JOBS] == results
    for result in results:
        assert (result.steps, result.chunks, result.entropy) == (LENGTH, 2, [])
        assert result.evaluations is None
    assert sum(result.clipped_steps for result in results) > 0


def test_wrong_instruction_is_drawn_by_the_seed(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(runner, monkeypatch)
    right = runner.environment(TASK).instruction
    offered = (right, "sing", "dance", "cook")
    told = []
    for seed in range(20, 26):
        seen.clear()
        result = run(runner, EpisodeJob("e0", TASK, seed, "instruction"), offered)
        assert {tuple(batch["task"]) for batch in seen} == {(result.instruction,)}
        told.append(result.instruction)
    assert right not in told
    assert len(set(told)) > 1
    again = run(runner, EpisodeJob("e0", TASK, 20, "instruction"), offered[::-1])
    assert again.instruction == told[0]
    assert run(runner, JOBS[0]).instruction == right
    with pytest.raises(ValueError, match=f"needs an instruction other than '{right}'"):
        run(runner, EpisodeJob("e0", TASK, 20, "instruction"), (right,))


def duration(clip: Image.Image) -> int:
    """Milliseconds of an animation, whose equal neighbours are one frame that is shown longer."""
    shown = 0
    for frame in range(getattr(clip, "n_frames", 1)):
        clip.seek(frame)
        clip.load()
        shown += clip.info["duration"]
    return shown


def test_blackout_changes_the_images_only(
    tmp_path: Path, rendering: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save_policy(tmp_path / "checkpoint", state_size=3, image_size=32)
    options = ("proprioception=compact", "image_size=32", f"episode_length={LENGTH}")
    settings = RunnerSettings(
        checkpoint, EnvironmentSettings("maniskill", options), ONE_STEP, tmp_path / "clips"
    )
    runner = Runner(settings)
    seen = watch(runner, monkeypatch)
    jobs = [EpisodeJob("e0", TASK, 11), EpisodeJob("e0", TASK, 11, "blackout")]
    usual, dark = (run(runner, job) for job in jobs)
    first, blind = seen[0], seen[usual.steps]
    assert all(batch[IMAGE].max() > 0.2 for batch in seen[: usual.steps])
    assert not any(batch[IMAGE].any() for batch in seen[usual.steps :])
    assert first[IMAGE].shape == blind[IMAGE].shape == (1, 3, 32, 32)
    for name in ("observation.state", "observation.environment_state"):
        assert torch.equal(first[name], blind[name])
    assert first["task"] == blind["task"]
    assert usual.entropy != dark.entropy, "the policy's images have no effect"
    for job, result in zip(jobs, (usual, dark), strict=True):
        with Image.open(clip_path(tmp_path / "clips", job)) as clip:
            assert clip.size == (32, 32)
            assert duration(clip) == 100 * (result.steps + 1)
            # The camera goes on seeing; only the policy does not.
            assert np.asarray(clip.convert("RGB")).max() > 50


def test_result_survives_its_line(runner: Runner) -> None:
    result = run(runner, JOBS[0])
    assert EpisodeResult.from_json(result.to_json()) == result
    assert '"return": ' in result.to_json()
