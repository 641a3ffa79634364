"""Closed-loop evaluation: an episode's result depends on its job alone, and is kept once."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies import make_pre_post_processors
from PIL import Image

from e0.bench.closed_loop import (
    EpisodeJob,
    EpisodeResult,
    EvaluationSettings,
    Runner,
    clip_path,
    evaluate,
    read_results,
)
from lerobot_policy_e0 import E0Config, E0Policy

TASK = "PushCube-v1"
LENGTH = 6
IMAGE = "observation.images.base_camera"
JOBS = [EpisodeJob(TASK, seed) for seed in (11, 12, 13)]


def save_policy(directory: Path, state_size: int, image_size: int | None = None) -> Path:
    """A checkpoint with random weights, as LeRobot's training loop would write it."""
    torch.manual_seed(0)
    inputs = {
        "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
        "observation.environment_state": PolicyFeature(FeatureType.ENV, (state_size,)),
    }
    if image_size is not None:
        inputs[IMAGE] = PolicyFeature(FeatureType.VISUAL, (3, image_size, image_size))
    config = E0Config(
        input_features=inputs,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
        n_action_steps=4,
        device="cpu",
        push_to_hub=False,
    )
    policy = E0Policy(config)
    policy.model.tokenizer.fit(torch.empty(500, 7).uniform_(-1, 1), config.codebook)
    # A new network's last layer is zero, and its actions would not depend on what it sees.
    for parameter in policy.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    policy.save_pretrained(directory)
    statistics = {
        name: {"mean": torch.zeros(feature.shape), "std": torch.ones(feature.shape)}
        for name, feature in inputs.items()
    }
    for processor in make_pre_post_processors(config, dataset_stats=statistics):
        processor.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EvaluationSettings:
    checkpoint = save_policy(tmp_path_factory.mktemp("checkpoint"), state_size=17)
    environment = {"proprioception": "compact", "state_only": True, "episode_length": LENGTH}
    return EvaluationSettings(checkpoint, environment, denoising_steps=2)


@pytest.fixture(scope="module")
def one_thread():
    """As in the worker processes: the number of threads changes the last bits of a sum."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def runner(settings: EvaluationSettings, one_thread: None) -> Runner:
    return Runner(settings)


@pytest.fixture(scope="module")
def expected(runner: Runner) -> list[EpisodeResult]:
    return [runner.run(job) for job in JOBS]


def test_result_follows_from_the_job_alone(runner: Runner, expected: list[EpisodeResult]) -> None:
    again = [runner.run(job) for job in reversed(JOBS)]
    assert again[::-1] == expected
    for result in expected:
        assert (result.steps, len(result.entropy)) == (LENGTH, 2)
        assert all(0 < entropy < np.log(256) for entropy in result.entropy)
    assert len({result.total_reward for result in expected}) == len(JOBS)


def test_noise_of_the_policy_follows_the_seed(runner: Runner) -> None:
    """The same observation with another seed gives other actions, so the seed really counts."""
    observation, _ = runner.environment(TASK).reset(seed=11)
    batch = runner.batch(observation, "push", blackout=False)

    def chunk(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return runner.policy.predict(batch, steps=2, generator=generator).actions

    torch.testing.assert_close(chunk(1), chunk(1), rtol=0, atol=0)
    assert not torch.equal(chunk(1), chunk(2))


def test_actions_stay_in_the_action_space(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    env = runner.environment(TASK)
    step, actions = env.step, []

    def watched(action: np.ndarray) -> Any:
        actions.append(action)
        return step(action)

    monkeypatch.setattr(env, "step", watched)
    for job in JOBS:
        runner.run(job)
    assert len(actions) == LENGTH * len(JOBS)
    assert all(env.action_space.contains(action) for action in actions)
    assert np.ptp(actions, axis=0).min() > 0.1, "these actions would stay in any space"


def test_evaluation_goes_on_where_it_was_cut_short(
    settings: EvaluationSettings, expected: list[EpisodeResult], tmp_path: Path
) -> None:
    """Another process gives what the runner in this one gives; what is kept is not run again."""
    file = tmp_path / "results" / "episodes.jsonl"
    file.parent.mkdir()
    kept = replace(expected[0], total_reward=123.0)  # to tell it from a new run
    cut = json.dumps(asdict(expected[1]))[:-20]
    file.write_text(json.dumps(asdict(kept)) + "\n" + cut)
    seen: list[EpisodeResult] = []
    order = [JOBS[2], JOBS[0], JOBS[1], JOBS[2]]
    results = evaluate(order, settings, file, workers=1, on_result=seen.append)
    assert results == [expected[2], kept, expected[1], expected[2]]
    assert sorted(result.seed for result in seen) == [12, 13]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(line["seed"] for line in lines) == [11, 12, 13]
    assert read_results(file) == [kept, *seen]
    # All is there: no process is started, and the file stays as it is.
    before = file.read_bytes()
    assert evaluate(JOBS, settings, file, workers=1, on_result=seen.append) == [
        kept,
        expected[1],
        expected[2],
    ]
    assert (len(seen), file.read_bytes()) == (2, before)


@pytest.mark.parametrize("line", ["not json", '{"seed": 1}', "[1, 2]", "7"])
def test_foreign_line_is_refused(
    line: str, settings: EvaluationSettings, expected: list[EpisodeResult], tmp_path: Path
) -> None:
    file = tmp_path / "episodes.jsonl"
    content = line + "\n" + json.dumps(asdict(expected[0])) + "\n"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"episodes\.jsonl holds a line that is not an episode"):
        evaluate(JOBS, settings, file, workers=1)
    assert file.read_text() == content


def test_no_results_yet(tmp_path: Path) -> None:
    assert read_results(tmp_path / "episodes.jsonl") == []


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Runner:
    """A runner of a policy with a camera; makes no environment by itself."""
    directory = tmp_path_factory.mktemp("seeing")
    checkpoint = save_policy(directory / "checkpoint", state_size=3, image_size=32)
    environment = {"proprioception": "compact", "image_size": 32, "episode_length": LENGTH}
    return Runner(EvaluationSettings(checkpoint, environment, 1, directory / "clips"))


def test_blackout_changes_the_images_only(seeing: Runner) -> None:
    rng = np.random.default_rng(0)
    observation = {
        "pixels": {"base_camera": rng.integers(1, 256, (32, 32, 3), np.uint8)},
        "agent_pos": rng.normal(size=4).astype(np.float32),
        "environment_state": rng.normal(size=3).astype(np.float32),
    }
    pixels = observation["pixels"]["base_camera"].copy()
    usual, black = (seeing.batch(observation, "push", blackout) for blackout in (False, True))
    np.testing.assert_allclose(
        usual[IMAGE][0].permute(1, 2, 0).numpy(), pixels.astype(np.float32) / 255, atol=1e-6
    )
    assert black[IMAGE].shape == usual[IMAGE].shape
    assert not black[IMAGE].any()
    for name in ("observation.state", "observation.environment_state"):
        assert torch.equal(usual[name], black[name])
    assert usual["task"] == black["task"] == ["push"]
    np.testing.assert_array_equal(observation["pixels"]["base_camera"], pixels)


def test_episode_with_a_blackout(
    seeing: Runner, rendering: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, brightest = seeing.policy.predict, []

    def watched(batch: dict[str, Any], **options: Any) -> Any:
        brightest.append(float(batch[IMAGE].max()))
        return predict(batch, **options)

    monkeypatch.setattr(seeing.policy, "predict", watched)
    jobs = [EpisodeJob(TASK, 11), EpisodeJob(TASK, 11, blackout=True)]
    results = [seeing.run(job) for job in jobs]
    chunks = len(results[0].entropy)
    assert all(value > 0.2 for value in brightest[:chunks])
    assert brightest[chunks:] == [0.0] * len(results[1].entropy)
    assert [result.job for result in results] == jobs
    assert results[0].entropy != results[1].entropy, "the policy's images have no effect"
    directory = seeing.settings.clips
    assert directory is not None
    for job, result in zip(jobs, results, strict=True):
        with Image.open(clip_path(directory, job)) as clip:
            assert clip.size == (32, 32)
            assert getattr(clip, "n_frames", 1) == result.steps + 1
            # The camera goes on seeing; only the policy does not.
            assert np.asarray(clip.convert("RGB")).max() > 50
