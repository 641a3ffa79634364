"""Policies that act by a server act as those in this process do."""

from pathlib import Path

import pytest
import torch
from lerobot.rollout.inference.rtc import supports_rtc_inference

from e0_bench.closed_loop.checkpoints import read_checkpoints
from e0_bench.closed_loop.environments import EnvironmentSettings
from e0_bench.closed_loop.episodes import EpisodeJob
from e0_bench.closed_loop.runner import Assignment, Runner, RunnerSettings
from e0_bench.remote import RemoteCommand, run_remote
from lerobot_policy_e0.remote.configuration_remote import RemoteConfig
from lerobot_policy_e0.remote.modeling_remote import RemotePolicy
from lerobot_policy_e0.serving import ServedCheckpoint
from made_checkpoints import IMAGE, save_policy
from running_server import Doubling, serving

pytest.importorskip("mani_skill")


@pytest.fixture(scope="module")
def zero_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sees states alone, and its chunks hang on no random numbers."""
    return save_policy(tmp_path_factory.mktemp("zero"), 17, start="zero", denoising_steps=1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("pictures"), 3, 32)


def run(checkpoint: Path) -> tuple[float, list[float]]:
    environment = EnvironmentSettings(
        "maniskill", ("state_only=true", "proprioception=compact", "episode_length=12")
    )
    runner = Runner(RunnerSettings(checkpoint, environment))
    result = runner.run(Assignment(EpisodeJob("policy", "PushCube-v1", 3), runner.settings))
    return result.total_reward, [result.steps, result.chunks]


def test_an_episode_by_a_server_is_that_in_process(zero_start: Path, tmp_path: Path) -> None:
    served = ServedCheckpoint(zero_start, "native")
    with serving(served) as (url, _):
        run_remote(RemoteCommand(url, tmp_path / "remote"))
        with pytest.raises(FileExistsError, match="choose another"):
            run_remote(RemoteCommand(url, tmp_path / "remote"))
        (checkpoint,) = read_checkpoints([tmp_path / "remote"])
        assert checkpoint.type == "remote"
        reward, counts = run(tmp_path / "remote")
    expected, expected_counts = run(zero_start)
    assert counts == expected_counts == [12, 3]
    assert reward == pytest.approx(expected, rel=1e-3)
    assert expected != 0


def test_pictures_and_seeds_travel(pictures: Path) -> None:
    served = ServedCheckpoint(pictures, "native")
    picture = torch.randint(0, 256, (2, 3, 32, 32)) / 255
    state, goal = torch.randn(2, 4), torch.randn(2, 3)
    batch = {"observation.state": state, "observation.environment_state": goal, IMAGE: picture}
    with serving(served) as (url, _):
        policy = RemotePolicy.from_pretrained(None, config=RemoteConfig(server=url))
        torch.manual_seed(1)
        chunk = policy.predict_action_chunk(batch | {"task": ["go", "stop"]})
        torch.manual_seed(1)
        torch.testing.assert_close(
            policy.predict_action_chunk(batch | {"task": ["go", "stop"]}), chunk
        )
        assert not torch.equal(policy.predict_action_chunk(batch | {"task": ["go", "stop"]}), chunk)
        with pytest.raises(ValueError, match=r"the batch lacks .*base_camera"):
            policy.predict_action_chunk({"observation.state": state, "task": ["go", "stop"]})
    torch.manual_seed(1)
    seeds = [int(torch.randint(2**62, ())) for _ in range(2)]
    for row, task in enumerate(("go", "stop")):
        alone = served.infer(
            {
                "observation.state": state[row].numpy(),
                "observation.environment_state": goal[row].numpy(),
                IMAGE: (picture[row] * 255).round().byte().numpy(),
                "prompt": task,
                "e0/seed": seeds[row],
            }
        )
        torch.testing.assert_close(torch.from_numpy(alone["actions"]), chunk[row])


def test_lerobots_engine_may_hand_over_what_is_executed_meanwhile(tmp_path: Path) -> None:
    names = [f"joint_{n}.pos" for n in range(7)]
    saved = save_policy(tmp_path, 17, rtc_training_max_delay=3, action_feature_names=names)
    with serving(ServedCheckpoint(saved, "native")) as (url, _):
        policy = RemotePolicy(RemoteConfig(server=url))
        assert policy.config.action_feature_names == names
        assert supports_rtc_inference(policy)
        batch = {"observation.state": torch.zeros(1, 4), "task": ["go"]}
        batch["observation.environment_state"] = torch.zeros(1, 17)
        chunk = policy.predict_action_chunk(batch)[0]
        # What LeRobot 0.6 hands over when two steps are left: zeros are none.
        left = torch.cat([chunk[-2:], torch.zeros(3, 7)])
        following = policy.predict_action_chunk(
            batch, inference_delay=4, prev_chunk_left_over=left
        )[0]
        torch.testing.assert_close(following[:2], chunk[-2:], rtol=0, atol=0)
        assert following[2].abs().sum() > 0
        with pytest.raises(ValueError, match="of a single observation"):
            two = {name: x.repeat(2, 1) for name, x in batch.items() if name != "task"}
            policy.predict_action_chunk(
                two | {"task": ["go", "go"]}, inference_delay=1, prev_chunk_left_over=left
            )


def test_servers_that_do_not_fit(zero_start: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot be reached"):
        RemotePolicy(RemoteConfig(server="ws://127.0.0.1:9", timeout=0.2))
    with serving(Doubling()) as (url, _), pytest.raises(RuntimeError, match="--robot=native"):
        RemotePolicy(RemoteConfig(server=url))
    with serving(ServedCheckpoint(zero_start, "native")) as (url, _):
        with pytest.raises(RuntimeError, match="this policy was saved for abc"):
            RemotePolicy(RemoteConfig(server=url, checkpoint="abc"))
        policy = RemotePolicy(RemoteConfig(server=url, n_action_steps=2))
        with pytest.raises(NotImplementedError, match="cannot be trained"):
            policy.forward({})
    for options, message in (
        ({"server": "here"}, "begin with ws://"),
        ({"timeout": 0.0}, "positive"),
        ({"n_action_steps": 0}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            RemoteConfig(**options)
