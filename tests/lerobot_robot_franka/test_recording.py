"""LeRobot's own programs lead a simulated arm, record and replay."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset
from simulated_arm import simulated_arm

from lerobot_robot_franka import Franka, FrankaConfig

LED = [
    "--teleop.type=franka_end_effector",
    "--teleop.discover_packages_path=scripted_device",
    "--teleop.speed=0.05",
    "--teleop.device={type: scripted, says: {delta_x: 1.0, delta_y: 0, delta_z: 0, gripper: 0}}",
]
DATASET = "tests/led"
pytestmark = pytest.mark.slow


def lerobot(program: str, *options: str, home: Path) -> str:
    """What a program of LeRobot's says. It finds the device beside this test."""
    command = [str(Path(sys.executable).with_name(f"lerobot-{program}")), *options]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "HF_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize("led", [LED, ["--teleop.type=franka_guiding"]], ids=["led", "guided"])
def test_what_is_recorded_can_be_replayed(led: list[str], tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    with simulated_arm() as (host, _):
        robot = ["--robot.type=franka", f"--robot.host={host}", "--robot.realtime=false"]
        lerobot(
            "record", *robot, "--robot.velocities=true", "--robot.pose=true",
            "--robot.wrench=true", *led, f"--dataset.repo_id={DATASET}", f"--dataset.root={root}",
            "--dataset.single_task=move", "--dataset.num_episodes=2", "--dataset.episode_time_s=2",
            "--dataset.reset_time_s=0", "--dataset.fps=20", "--dataset.push_to_hub=false",
            "--play_sounds=false", home=tmp_path,
        )  # fmt: skip
    dataset = LeRobotDataset(DATASET, root=root)
    assert dataset.num_episodes == 2 and dataset.num_frames > 60
    state = dataset.features["observation.state"]
    assert state["shape"] == (8 + 7 + 9 + 6,)
    assert state["names"][8] == "joint_1.vel" and state["names"][-1] == "wrench.tz.vel"
    hand = state["names"].index("ee.x.pos")
    frames = [dataset[index] for index in range(dataset.num_frames)]
    moved = float(frames[-1]["observation.state"][hand] - frames[0]["observation.state"][hand])
    assert moved == pytest.approx(0.2 if led is LED else 0.0, abs=0.04)
    actions = np.array([frame["action"].numpy() for frame in frames])
    assert np.abs(np.diff(actions[:, :7], axis=0)).max() < 0.1

    with simulated_arm() as (host, _):
        robot = ["--robot.type=franka", f"--robot.host={host}", "--robot.realtime=false"]
        lerobot(
            "replay", *robot, f"--dataset.repo_id={DATASET}", f"--dataset.root={root}",
            "--dataset.episode=0", "--play_sounds=false", home=tmp_path,
        )  # fmt: skip
        with Franka(FrankaConfig(host=host, realtime=False)) as again:
            there = list(again.get_observation().values())
    last = max(i for i, frame in enumerate(frames) if frame["episode_index"] == 0)
    np.testing.assert_allclose(there[:7], actions[last, :7], atol=0.03)


def test_lerobot_teleoperate_leads_the_arm(tmp_path: Path) -> None:
    with simulated_arm() as (host, _):
        said = lerobot(
            "teleoperate", "--robot.type=franka", f"--robot.host={host}", "--robot.realtime=false",
            *LED, "--fps=30", "--teleop_time_s=2", home=tmp_path,
        )  # fmt: skip
    assert "Teleop loop time" in said
