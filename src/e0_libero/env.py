"""A LIBERO task as policies see it in LeRobot's evaluation, and as experts need it."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from scipy.spatial.transform import Rotation

from e0_experts.cameras import Camera, CameraShift
from e0_libero.tasks import find_task
from e0_libero.viewpoints import Viewpoint

FREQUENCY = 20  # Hz
STATE_SIZE, ACTION_SIZE = 8, 7

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


class LiberoEnv(gymnasium.Env):
    """A task as `reset` and `step`. Observations are those that LeRobot makes of LIBERO's for a
    policy: `pixels`, uint8 (size, size, 3) by camera, turned by 180 degrees; `agent_pos`, float32
    (8,): the hand's position (m) and rotation vector, both fingers (m).

    task: as `libero_goal/3`. image_size: pixels; None takes no pictures. camera_shift: of the agent
    view, on the sphere about the point of the table that is in the middle of its picture.
    viewpoint: of the agent view, in place of a shift, as LIBERO-Plus moves it.
    official_states: whether the episode of seed k begins at official initial state k, modulo 50,
    which evaluation uses; otherwise things lie where the seed says, within the places that the task
    gives them.

    Raises UnknownTaskError, AssetsMissingError, and ValueError for a size that is none, and for a
    shift and a viewpoint at once; `reset` raises one for a shift that passes over a pole.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FREQUENCY}  # noqa: RUF012 (Gymnasium's)

    def __init__(
        self,
        task: str,
        *,
        image_size: int | None = None,
        camera_shift: CameraShift | None = None,
        viewpoint: Viewpoint | None = None,
        official_states: bool = False,
    ) -> None:
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size must be at least 1 pixel, got {image_size}")
        if camera_shift is not None and viewpoint is not None:
            raise ValueError("the agent view is moved by camera_shift or by viewpoint, not by both")
        known = find_task(task)
        self.task, self.task_description = known.name, known.instruction
        self.render_mode = "rgb_array"
        self._max_episode_steps = known.step_limit
        self._states = known.initial_states if official_states else None
        self._cameras = {} if image_size is None else CAMERAS
        self._shift, self._viewpoint = camera_shift, viewpoint
        self._size = image_size or 1
        self._picture = np.zeros((1, 1, 3), np.uint8)
        self._bddl_file = known.bddl_file
        self.simulator: Any = None  # LIBERO's `ControlEnv`, from the first reset on
        picture = spaces.Box(0, 255, (self._size, self._size, 3), np.uint8)
        seen: dict[str, spaces.Space[Any]] = {
            "agent_pos": spaces.Box(-np.inf, np.inf, (STATE_SIZE,), np.float32)
        }
        if self._cameras:
            seen["pixels"] = spaces.Dict(dict.fromkeys(self._cameras, picture))
        self.observation_space = spaces.Dict(seen)
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin the episode of a seed, of a random one if none is given, with everything at
        rest."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        if self.simulator is None:  # by whoever uses it: a renderer does not outlive a fork
            self.simulator = self._make_simulator()
        self.simulator.seed(seed)
        self.simulator.reset()  # which loads the scene anew, its cameras too
        if self._shift is not None:
            move_camera(self.simulator, CAMERAS["image"], self._shift)
        if self._viewpoint is not None:
            view_from(self.simulator, CAMERAS["image"], self._viewpoint)
        if self._states is not None:
            self.simulator.set_init_state(self._states[seed % len(self._states)])
        for _ in range(SETTLING_STEPS):
            observed = self.simulator.step(STILL)[0]
        return self._seen(observed), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Act for a twentieth of a second. action (7,): translation and rotation vector along the
        world's axes, in units of 0.05 m and 0.5 rad, and the gripper, 1 to close it."""
        observed, reward, _, _ = self.simulator.step(action)
        success = bool(self.simulator.check_success())
        return self._seen(observed), float(reward), success, False, {"is_success": success}

    def render(self) -> np.ndarray:
        """What the agent view saw last, uint8 (size, size, 3); without pictures one black pixel."""
        return self._picture

    def close(self) -> None:
        """Free the simulator."""
        if self.simulator is not None:
            self.simulator.close()
            self.simulator = None

    def _make_simulator(self) -> Any:
        logging.getLogger("robosuite_logs").setLevel(logging.ERROR)  # it recommends settings
        return import_module("libero.libero.envs.env_wrapper").ControlEnv(
            bddl_file_name=self._bddl_file,
            use_camera_obs=bool(self._cameras),
            has_offscreen_renderer=bool(self._cameras),
            camera_heights=self._size,
            camera_widths=self._size,
        )

    def _seen(self, observed: dict[str, Any]) -> dict[str, Any]:
        turn = rotation_vector(observed["robot0_eef_quat"])
        parts = (observed["robot0_eef_pos"], turn, observed["robot0_gripper_qpos"])
        seen: dict[str, Any] = {"agent_pos": np.concatenate(parts).astype(np.float32)}
        if self._cameras:
            seen["pixels"] = {
                name: np.ascontiguousarray(observed[f"{camera}_image"][::-1, ::-1])
                for name, camera in self._cameras.items()
            }
            self._picture = seen["pixels"]["image"]
        return seen


def move_camera(simulator: Any, name: str, shift: CameraShift) -> None:
    """Move a camera that is fixed in the world, in a scene that was just loaded, on the sphere
    about the point that it looks at on the table. Raises ValueError for a shift over a pole."""
    model, data = simulator.env.sim.model._model, simulator.env.sim.data._data
    number = model.camera(name).id
    eye, axes = data.cam_xpos[number], data.cam_xmat[number].reshape(3, 3)
    ahead = -axes[:, 2]
    distance = (simulator.env.workspace_offset[2] - eye[2]) / ahead[2]
    camera = Camera(tuple(eye), tuple(eye + distance * ahead), np.radians(model.cam_fovy[number]))
    moved = camera.moved(shift)
    _place_camera(simulator, number, np.array(moved.eye), Rotation.from_matrix(looking(moved)))


def view_from(simulator: Any, name: str, viewpoint: Viewpoint) -> None:
    """Move a camera that is fixed in the world, in a scene that was just loaded, to a viewpoint of
    LIBERO-Plus."""
    model = simulator.env.sim.model._model
    number = model.camera(name).id
    usual = Rotation.from_quat(model.cam_quat[number], scalar_first=True)
    _place_camera(simulator, number, *viewpoint.moved(model.cam_pos[number], usual))


def _place_camera(simulator: Any, number: int, eye: np.ndarray, rotation: Rotation) -> None:
    """Put a camera at `eye` (3,), its axes turned so."""
    model = simulator.env.sim.model._model
    model.cam_pos[number] = eye
    model.cam_quat[number] = rotation.as_quat(scalar_first=True)
    simulator.env.sim.forward()


def looking(camera: Camera) -> np.ndarray:
    """The axes (3, 3) of a camera as MuJoCo has them: x to the right, y up, z backwards."""
    backwards = np.subtract(camera.eye, camera.target)
    backwards /= np.linalg.norm(backwards)
    right = np.cross([0.0, 0.0, 1.0], backwards)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(backwards, right), backwards], axis=1)
    return axes @ Rotation.from_euler("z", -camera.roll, degrees=True).as_matrix()
