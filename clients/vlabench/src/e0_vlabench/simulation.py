"""An episode of VLABench in its own simulation: set up by its seed, looked at, and moved.

VLABench's Evaluator is not used: it takes the flag of the inverse kinematics for success, drops
episodes that end in an error, and draws at random what should be the same each time.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dm_control.utils.inverse_kinematics import (  # pyright: ignore[reportMissingImports]
    qpos_from_site_pose,
)

from e0_vlabench.errors import AssetsError, EpisodeError
from e0_vlabench.installation import DOWNLOAD
from e0_vlabench.poses import Pose, quaternion_of
from e0_vlabench.scores import ScoreKeeper
from e0_vlabench.tasks import Episode

FRONT, WRIST = "forward", "franka/Franka_wrist_cam"
PICTURE = 480  # pixels, as in the published data
STEPS = 200  # of an episode, where VLABench's settings say nothing else: its Evaluator's
OUT_OF_REACH = 0.01  # metres and radians, summed, that the nearest pose may be beside


class View(NamedTuple):
    """What a policy is given: pictures (480, 480, 3) uint8 of the camera in front and on the wrist,
    VLABench's state of the end effector (8,), and where the robot stands (3,)."""

    front: np.ndarray
    wrist: np.ndarray
    ee_state: np.ndarray
    base: np.ndarray


class Simulation:
    """A running episode. `scores` follows it."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self.instruction = _instruction(env)
        self.scores = ScoreKeeper(env.task)

    def look(self) -> View:
        """What there is to see now: two pictures, where VLABench's own takes twelve."""
        physics, robot = self._env.physics, self._env.robot
        return View(
            physics.render(PICTURE, PICTURE, camera_id=FRONT),
            physics.render(PICTURE, PICTURE, camera_id=WRIST),
            np.asarray(robot.get_ee_state(physics), np.float64),
            np.array(physics.bind(robot.link_base).xpos),
        )

    def move(self, pose: Pose) -> tuple[bool, bool]:
        """Go towards a pose for a control step of 0.1 s. Whether the task is solved, and whether
        the pose is out of reach; then it goes to the nearest one, as in VLABench.

        Raises dm_control's PhysicsError if the simulation diverges.
        """
        robot = self._env.robot
        found = qpos_from_site_pose(
            self._env.physics,
            robot.end_effector_site.full_identifier,
            target_pos=pose.position,
            target_quat=quaternion_of(pose.euler),
        )
        joints = found.qpos[: robot.n_dof]
        timestep = self._env.step(np.concatenate([joints, pose.fingers]))
        self.scores.update(self._env.physics)
        return bool(timestep.last()), bool(found.err_norm > OUT_OF_REACH)


@contextmanager
def opened(envs: Any, episode: Episode) -> Iterator[Simulation]:
    """The episode, set up; closed afterwards.

    envs: VLABench's module. Raises AssetsError naming the file if one is absent, EpisodeError if
    VLABench cannot set the episode up, or if it would be solved before it begins.
    """
    try:
        env = _set_up(envs, episode)
    except FileNotFoundError as error:
        raise AssetsError(
            f"{episode.name}, episode {episode.seed}, needs {error.filename or error}, which is "
            f"absent; download the assets with {DOWNLOAD}"
        ) from error
    except RecursionError as error:  # it resets what is solved, in every step that follows a reset
        raise _solved_already(episode) from error
    except Exception as error:  # whatever its tasks raise
        raise EpisodeError(
            f"VLABench cannot set up {episode.name}, episode {episode.seed}: "
            f"{type(error).__name__}: {error}"
        ) from error
    try:
        if env.task.should_terminate_episode(env.physics):
            raise _solved_already(episode)
        yield Simulation(env)
    finally:
        env.close()


def _solved_already(episode: Episode) -> EpisodeError:
    return EpisodeError(
        f"{episode.name}, episode {episode.seed}, is solved before it begins, so it would tell "
        "nothing of a policy"
    )


def step_limit(root: Path, episode: Episode) -> int:
    """How many control steps an episode may take, from VLABench's settings of its task."""
    from VLABench.configs import name2config  # pyright: ignore[reportMissingImports]

    series = next((s for s, tasks in name2config.items() if episode.task in tasks), episode.task)
    settings = json.loads((root / "configs/task_config.json").read_text())
    return settings.get(series, {}).get("evaluation", {}).get("max_episode_length") or STEPS


def _set_up(envs: Any, episode: Episode) -> Any:
    """VLABench's environment at the episode's first moment."""
    setup = copy.deepcopy(episode.setup)  # VLABench writes paths into it
    _seed(episode.seed)
    with _unchanged(envs.TASK_CONFIG), _unchanged(envs.ROBOT_CONFIG):
        env = envs.load_env(episode.task, episode_config=setup, random_init=setup is None)
    # VLABench draws positions also from a generator of the environment's that no seed reaches, and
    # has drawn already. The room's place is drawn even in a track's episodes.
    _seed(episode.seed)
    env.random_state.seed(episode.seed)
    env.reset()
    return env


def _instruction(env: Any) -> str:
    """What a policy is told; drawn once, where VLABench draws one of several in each step."""
    instruction = env.task.get_instruction()
    if not instruction:
        raise EpisodeError(f"VLABench has no instruction for {env.task.task_name}")
    return str(instruction)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)


@contextmanager
def _unchanged(settings: dict[str, Any]) -> Iterator[None]:
    """Undo what VLABench writes into its settings: one task's place of the robot would be the next
    one's, too."""
    before = copy.deepcopy(settings)
    try:
        yield
    finally:
        settings.clear()
        settings.update(before)
