"""LeRobot's own program lets a policy act on a simulated arm, with real-time chunking."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from simulated_arm import START_POSITION, simulated_arm

from lerobot_policy_e0 import E0Config, E0Policy
from made_checkpoints import save

RTC = ["--inference.queue_threshold=8", "--inference.rtc.execution_horizon=10"]
MORE = ["--robot.velocities=true", "--robot.pose=true", "--robot.wrench=true"]


def near_start(directory: Path, state: int) -> Path:
    """A policy with random weights whose codes lie near where the arm starts; state: how many
    numbers it is told of the arm."""
    torch.manual_seed(0)
    config = E0Config(
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (state,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (8,))},
        device="cpu",
        push_to_hub=False,
        horizon=16,
        n_action_steps=8,
        rtc_training_max_delay=6,
        start="zero",
        denoising_steps=1,
        use_instruction=False,
    )
    policy = E0Policy(config)
    actions = torch.tensor([*START_POSITION, 0.5]) + torch.empty(2000, 8).uniform_(-0.05, 0.05)
    policy.model.tokenizer.fit(actions, config.codebook)
    return save(policy, directory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "options"),
    [
        (8, ["--inference.type=sync"]),
        (8, ["--inference.type=rtc", *RTC]),
        (8 + 7 + 9 + 6, ["--inference.type=rtc", *RTC, *MORE]),
    ],
    ids=["sync", "rtc", "more observed"],
)
def test_lerobot_rollout_drives_the_arm(state: int, options: list[str], tmp_path: Path) -> None:
    checkpoint = near_start(tmp_path / "policy", state)
    with simulated_arm() as (host, _):
        command = [
            str(Path(sys.executable).with_name("lerobot-rollout")),
            f"--policy.path={checkpoint}",
            "--robot.type=franka",
            f"--robot.host={host}",
            "--robot.realtime=false",
            "--strategy.type=base",
            "--duration=3",
            "--fps=20",
            "--task=hold",
            *options,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Rollout finished" in done.stdout + done.stderr
    assert "inference error" not in done.stdout + done.stderr  # of ten, with "rtc", it says no more
