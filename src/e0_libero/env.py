"""A LIBERO task as policies see it in LeRobot's evaluation, and as experts need it."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

import numpy as np

from e0_libero.tasks import find_task

CAMERAS = {"image": "agentview", "image2": "robot0_eye_in_hand"}
"""LIBERO's cameras by the names that published datasets and LeRobot give to their pictures."""
SETTLING_STEPS = 10  # before an episode begins, in which objects come to rest
STILL = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]


def rotation_vector(quaternion: np.ndarray) -> np.ndarray:
    """Of a quaternion x, y, z, w, as in published data: its sign is kept, so the angle may be more
    than half a turn, and the vector does not jump where the hand points straight down."""
    axis, w = quaternion[:3], float(np.clip(quaternion[3], -1.0, 1.0))
    length = np.sqrt(1.0 - w * w)
    return np.zeros(3) if length < 1e-10 else axis * (2.0 * np.arccos(w) / length)


class LiberoEnv:
    """A task with Gymnasium's `reset` and `step`. Observations are those that LeRobot makes of
    LIBERO's for a policy: `pixels`, uint8 (size, size, 3) by camera, turned by 180 degrees;
    `agent_pos`, float32 (8,): the hand's position (m) and rotation vector, both fingers (m).

    task: as `libero_goal/3`. image_size: pixels; None takes no pictures. official_states: whether
    the episode of seed k begins at official initial state k, modulo 50, which evaluation uses;
    otherwise things lie where the seed says, within the places that the task gives them.

    Raises UnknownTaskError, AssetsMissingError, and ValueError for a size that is none.
    """

    def __init__(
        self, task: str, *, image_size: int | None = None, official_states: bool = False
    ) -> None:
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size must be at least 1 pixel, got {image_size}")
        known = find_task(task)
        self.task, self.task_description = known.name, known.instruction
        self._max_episode_steps = known.step_limit
        self._states = known.initial_states if official_states else None
        self._cameras = {} if image_size is None else CAMERAS
        logging.getLogger("robosuite_logs").setLevel(logging.ERROR)  # it recommends settings
        self.simulator: Any = import_module("libero.libero.envs.env_wrapper").ControlEnv(
            bddl_file_name=known.bddl_file,
            use_camera_obs=image_size is not None,
            has_offscreen_renderer=image_size is not None,
            camera_heights=image_size or 1,
            camera_widths=image_size or 1,
        )

    def reset(self, *, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin the episode of a seed, with everything at rest."""
        self.simulator.seed(seed)
        observed = self.simulator.reset()
        if self._states is not None:
            observed = self.simulator.set_init_state(self._states[seed % len(self._states)])
        for _ in range(SETTLING_STEPS):
            observed = self.simulator.step(STILL)[0]
        return self._seen(observed), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Act for a twentieth of a second. action (7,): translation and rotation vector along the
        world's axes, in units of 0.05 m and 0.5 rad, and the gripper, 1 to close it."""
        observed, reward, _, _ = self.simulator.step(action)
        success = bool(self.simulator.check_success())
        return self._seen(observed), float(reward), success, False, {"is_success": success}

    def close(self) -> None:
        """Free the simulator."""
        self.simulator.close()

    def _seen(self, observed: dict[str, Any]) -> dict[str, Any]:
        turn = rotation_vector(observed["robot0_eef_quat"])
        parts = (observed["robot0_eef_pos"], turn, observed["robot0_gripper_qpos"])
        seen: dict[str, Any] = {"agent_pos": np.concatenate(parts).astype(np.float32)}
        if self._cameras:
            seen["pixels"] = {
                name: np.ascontiguousarray(observed[f"{camera}_image"][::-1, ::-1])
                for name, camera in self._cameras.items()
            }
        return seen
