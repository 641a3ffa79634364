"""From pictures to Franka's protocol and back, in a simulation: demonstrate, train, roll out.

    python benchmarks/franka_sim.py --out benchmarks/results/franka-sim-2-cpu-cores.json

A simulated arm with a cube and two cameras (`lerobot_robot_franka.simulation`). A teacher that
sees the scene leads the hand through LeRobot's recording loop, a tiny E0 learns from the pictures
and the joints, and `lerobot-rollout` lets it act with real-time chunking, on cubes in other places.
It shows that the whole way works, and is no evidence about a real arm. It runs in real time, on
cores that do nothing else. Demonstrations and training that are finished in --work are not made
again; remove a recording that was cut short.

Results: {"demonstrations", "training", "rollouts": numbers, "machine": text}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from e0_bench.files import write_json
from e0_bench.statistics import Rate
from e0_bench.training_run import local_training, train
from e0_system.files import beside

FPS = 12
TASK = "pick up the cube"
DEMONSTRATION_SEED, ROLLOUT_SEED = 10_000, 20_000
LONGEST, HOME_SECONDS = 15.0, 2.5  # seconds of a demonstration, of the way home
HIGH_ENOUGH = 0.2  # metres: where a demonstration may end
EPISODE_SECONDS, RESET_SECONDS = 10, 4  # of a rollout
POLICY = {
    "preset": "tiny",
    "device": "cpu",
    "objective": "e0",
    "optimizer_lr": 2e-3,
    "vector_noise": 0.02,
    "noise_draws": 2,
    "horizon": 16,
    "n_action_steps": 8,
    "rtc_training_max_delay": 6,
}


@contextmanager
def simulation(first_seed: int, log: Path) -> Iterator[dict[str, Any]]:
    """A simulated scene as a process; what it prints: host, pictures, state."""
    command = [sys.executable, "-m", "lerobot_robot_franka.simulation.world"]
    command += [f"--first-seed={first_seed}", f"--log={log}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with suppress(PermissionError):  # a real arm shares no core either
            os.setpriority(os.PRIO_PROCESS, process.pid, -10)
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("the simulation did not start: see above")
            yield json.loads(line)
        finally:
            process.kill()


def cameras(port: int) -> dict[str, dict[str, Any]]:
    """Settings of LeRobot's cameras for the simulation's."""
    from lerobot_robot_franka.simulation.scene import CAMERAS, SIZE

    shared = {"type": "zmq", "server_address": "127.0.0.1", "port": port, "fps": FPS}
    return {name: shared | {"camera_name": name, "width": SIZE, "height": SIZE} for name in CAMERAS}


def demonstrate(work: Path, count: int) -> dict[str, Any]:
    """Record `count` successful demonstrations through the robot's interface."""
    import draccus
    from lerobot.cameras.configs import CameraConfig
    from lerobot.common.control_utils import follower_smooth_move_to
    from lerobot.datasets import LeRobotDataset
    from lerobot.processor import make_default_processors
    from lerobot.scripts.lerobot_record import record_loop
    from lerobot.utils.feature_utils import hw_to_dataset_features
    from lerobot_robot_franka.config_franka_end_effector import FrankaEndEffectorConfig
    from lerobot_robot_franka.errors import ControlLostError
    from lerobot_robot_franka.franka_end_effector import FrankaEndEffector
    from lerobot_robot_franka.simulation import config_franka_picker  # noqa: F401 (for LeRobot)
    from lerobot_robot_franka.simulation.world import Watcher

    from lerobot_robot_franka import Franka, FrankaConfig

    log = work / "demonstrations.jsonl"
    log.unlink(missing_ok=True)
    _, act, look = make_default_processors()
    events = dict.fromkeys(("exit_early", "rerecord_episode", "stop_recording"), False)
    with simulation(DEMONSTRATION_SEED, log) as told:
        seeing = {
            name: draccus.decode(CameraConfig, settings)
            for name, settings in cameras(told["pictures"]).items()
        }
        robot = Franka(FrankaConfig(host=told["host"], realtime=False, cameras=seeing))
        device = {"type": "franka_picker", "state_port": told["state"]}
        teleop = FrankaEndEffector(FrankaEndEffectorConfig(device=device, speed=0.2))
        features = hw_to_dataset_features(robot.action_features, "action", use_video=False)
        features |= hw_to_dataset_features(
            robot.observation_features, "observation", use_video=False
        )
        dataset = LeRobotDataset.create(
            "local/franka_sim", FPS, root=work / "dataset", robot_type=robot.name,
            features=features, use_videos=False, image_writer_threads=2,
        )  # fmt: skip

        def teach(pair: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
            scene = teleop.device.scene  # pyright: ignore[reportAttributeAccessIssue]
            events["exit_early"] |= scene["lifted"] and scene["hand"][2] > HIGH_ENOUGH
            return pair[0]

        watcher, began = Watcher(told["state"]), time.monotonic()
        tries = times_lost = 0
        teleop.connect()
        robot.connect()
        home = robot.get_observation()
        home = {name: home[name] for name in robot.action_features}
        with tqdm(total=count, unit="demonstration") as progress:
            while dataset.num_episodes < count:
                tries += 1
                lost = False
                try:
                    record_loop(
                        robot, events, FPS, teach, act, look, dataset, teleop, LONGEST, TASK
                    )  # pyright: ignore[reportArgumentType]
                except ControlLostError as error:  # another program took the simulation's core
                    tqdm.write(str(error))
                    lost, times_lost = True, times_lost + 1
                    robot.recover()
                seen = watcher.look()
                if seen["lifted"] and not lost:
                    dataset.save_episode()
                    progress.update()
                else:
                    dataset.clear_episode_buffer()
                here = robot.get_observation()
                here = {name: here[name] for name in home}
                follower_smooth_move_to(robot, here, home, HOME_SECONDS)
                wait_for_reset(watcher, seen["seed"])
        dataset.finalize()
        assert robot.arm is not None
        cycles = {str(length): count for length, count in sorted(robot.arm.cycles.items())}
        robot.disconnect()
        teleop.disconnect()
    return {
        "episodes": count,
        "tries": tries,
        "control_lost": times_lost,
        "frames": dataset.num_frames,
        "seconds": time.monotonic() - began,
        "cycles": cycles,
        "changes": changes([work / "dataset"], work / "dataset"),
    }


def changes(datasets: Sequence[Path], demonstrations: Path) -> dict[str, float]:
    """How far the joints' targets of recorded episodes change from step to step, in deviations of
    those demonstrated (root mean squares): a chunk that does not continue the last one shows."""
    targets, within = joint_targets(*datasets)
    deviation = joint_targets(demonstrations)[0].std(0)
    sizes = np.sqrt(((np.diff(targets, axis=0) / deviation) ** 2).mean(1))[within]
    return {
        "mean": float(sizes.mean()),
        "99 %": float(np.quantile(sizes, 0.99)),
        "largest": float(sizes.max()),
    }


def joint_targets(*datasets: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of all recorded steps, (N, 7), rad, and which of the changes between them, (N - 1,), lie
    within an episode."""
    from lerobot.datasets import LeRobotDataset

    targets, episodes = [], []
    for number, dataset in enumerate(datasets):
        frames = LeRobotDataset(f"local/{dataset.name}", root=dataset).hf_dataset
        columns = frames.with_format("numpy").select_columns(["action", "episode_index"])[:]
        targets.append(np.asarray(columns["action"])[:, :7])
        episodes.append(np.asarray(columns["episode_index"]) + 1_000_000 * number)
    return np.concatenate(targets), np.diff(np.concatenate(episodes)) == 0


def wait_for_reset(watcher: Any, seed: int) -> None:
    """Until the cube lies where another seed says. Raises TimeoutError."""
    end = time.monotonic() + 20
    while watcher.look()["seed"] == seed:
        if time.monotonic() > end:
            raise TimeoutError("the arm did not come home: the scene was not reset in 20 s")
        time.sleep(0.1)


def roll_out(work: Path, checkpoint: Path, count: int) -> dict[str, Any]:
    """Let LeRobot's own program drive the arm for `count` episodes; how they went. Where control of
    the arm is lost the program ends: that episode has failed, and it is started again."""
    for old in work.glob("rollouts-*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    outcomes: list[dict[str, Any]] = []
    parts: list[Path] = []
    while len(outcomes) < count:
        parts.append(work / f"rollouts-{len(parts)}")
        seed, left = ROLLOUT_SEED + len(outcomes), count - len(outcomes)
        found = drive(parts[-1], checkpoint, seed, left)
        outcomes += found
        if len(found) < left:
            outcomes.append({"seed": seed + len(found), "lifted": False, "control_lost": True})
    rate = Rate(sum(outcome["lifted"] for outcome in outcomes), len(outcomes))
    text = "".join(beside(part, ".log").read_text() for part in parts)
    cycles: Counter[str] = Counter()
    limited = 0
    for told in re.finditer(r"control cycles by their milliseconds: (\{.*\}); (\d+) unsafe", text):
        cycles.update(json.loads(told[1]))
        limited += int(told[2])
    return {
        "successes": rate.successes,
        "episodes": rate.episodes,
        "interval": rate.interval,
        "control_lost": sum("control_lost" in outcome for outcome in outcomes),
        "ticks": len(joint_targets(*parts)[0]),
        "slow_ticks_hz": [float(hz) for hz in re.findall(r"running slower \((\S+) Hz", text)],
        "limited": limited,
        "cycles": dict(sorted(cycles.items(), key=lambda item: int(item[0]))),
        "changes": changes(parts, work / "dataset"),
        "outcomes": outcomes,
    }


def drive(part: Path, checkpoint: Path, seed: int, count: int) -> list[dict[str, Any]]:
    """Run `lerobot-rollout` for `count` episodes from a seed; the outcomes of those that ended.
    part: the dataset that it records; its output goes beside it."""
    log = beside(part, ".jsonl")
    with simulation(seed, log) as told:
        command = [
            str(Path(sys.executable).with_name("lerobot-rollout")),
            f"--policy.path={checkpoint}",
            "--robot.type=franka", f"--robot.host={told['host']}", "--robot.realtime=false",
            f"--robot.cameras={json.dumps(cameras(told['pictures']))}",
            # LeRobot goes home in a second, faster than the arm: what it asks for runs ahead.
            "--robot.unsafe_actions=limit", "--robot.max_step=1.0",
            "--strategy.type=episodic", "--dataset.repo_id=local/rollout_franka_sim",
            f"--dataset.root={part}", "--dataset.push_to_hub=false",
            "--dataset.video=false", f"--dataset.single_task={TASK}", f"--dataset.fps={FPS}",
            # LeRobot does not go home after the last one, so one more.
            f"--dataset.num_episodes={count + 1}", f"--dataset.episode_time_s={EPISODE_SECONDS}",
            f"--dataset.reset_time_s={RESET_SECONDS}", f"--fps={FPS}", f"--task={TASK}",
            "--play_sounds=false", "--inference.type=rtc", "--inference.queue_threshold=8",
            "--inference.rtc.execution_horizon=10",
        ]  # fmt: skip
        output = beside(part, ".log")
        with output.open("w") as lines:
            # The simulated arm needs a core to itself, as a real one does.
            alone = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, env=alone, stdout=lines, stderr=subprocess.STDOUT)
    if not part.exists():
        raise RuntimeError(f"the arm was not driven: see {output}")
    outcomes = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if len(outcomes) < count and "ControlLostError" not in output.read_text():
        raise RuntimeError(f"{len(outcomes)} of {count} episodes ended at home: see {output}")
    return outcomes[:count]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("outputs/franka_sim"))
    parser.add_argument("--demonstrations", type=int, default=100)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--rollouts", type=int, default=50)
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    demonstrated = work / "demonstrations.json"
    if not demonstrated.exists():
        write_json(demonstrated, demonstrate(work, arguments.demonstrations))
    loop = {"steps": arguments.steps, "batch_size": 64}
    checkpoint = train(local_training(work / "dataset", POLICY, loop), work / "train")
    results = {
        "demonstrations": json.loads(demonstrated.read_text()),
        "training": loop,
        "rollouts": roll_out(work, checkpoint, arguments.rollouts),
        "machine": platform.platform(),
    }
    write_json(arguments.out, results)
    print(json.dumps({key: value for key, value in results.items() if key != "machine"}, indent=1))


if __name__ == "__main__":
    main()
