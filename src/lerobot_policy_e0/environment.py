"""`--env.type=maniskill`: the tasks of `e0_maniskill` for LeRobot's training and evaluation."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import partial
from typing import Any

from gymnasium.vector import VectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGES, OBS_STATE

from e0_experts.cameras import CameraShift
from e0_maniskill.cameras import HAND_CAMERA, default_cameras
from e0_maniskill.env import (
    ACTION_SIZE,
    GOAL_SIZE,
    MAX_OBJECTS,
    POSE_SIZE,
    PROPRIOCEPTION_SIZES,
    ManiSkillEnv,
)
from e0_maniskill.tasks import CONTROL_FREQUENCY, Task, find_task
from lerobot_policy_e0.vector_environment import make_vector
from lerobot_policy_e0.viewpoint import TellViewpoint


@EnvConfig.register_subclass("maniskill")
@dataclass
class ManiSkillEnvConfig(EnvConfig):
    """One or several ManiSkill tasks, comma-separated; see `e0_maniskill.env.ManiSkillEnv`.

    camera_shift: "azimuth,elevation,radius,roll" of all fixed cameras on the spheres around their
    targets: degrees, degrees, a factor, degrees. tell_camera_shift: the policy is told of it in
    `observation.viewpoint`, as by a calibration (`ViewpointSettings.embedding`).
    """

    task: str | None = "PickCube-v1"
    fps: int = CONTROL_FREQUENCY
    image_size: int | None = None
    camera_shift: str | None = None
    tell_camera_shift: bool = False
    hand_camera: bool = False
    proprioception: str = "full"
    state_only: bool = False
    episode_length: int | None = None

    def __post_init__(self) -> None:
        if self.proprioception not in PROPRIOCEPTION_SIZES:
            raise ValueError(
                f"unknown proprioception {self.proprioception!r}; "
                f"known: {', '.join(PROPRIOCEPTION_SIZES)}"
            )
        self._shift()  # refuses what is none
        size = PROPRIOCEPTION_SIZES[self.proprioception]
        state = GOAL_SIZE + (MAX_OBJECTS * POSE_SIZE if self.state_only else 0)
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, (ACTION_SIZE,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (size,)),
            "environment_state": PolicyFeature(FeatureType.ENV, (state,)),
        }
        self.features_map = {
            ACTION: ACTION,
            "agent_pos": OBS_STATE,
            "environment_state": OBS_ENV_STATE,
        }
        images = self._image_shapes()  # refuses unknown tasks, also without images
        if not self.state_only:
            for name, shape in images.items():
                self.features[name] = PolicyFeature(FeatureType.VISUAL, shape)
                self.features_map[name] = f"{OBS_IMAGES}.{name}"

    @property
    def tasks(self) -> list[Task]:
        """The tasks, in the order given. Raises ValueError for an unknown or repeated name."""
        names = [name.strip() for name in (self.task or "").split(",")]
        if len(set(names)) != len(names):
            raise ValueError(f"a task is named twice in {self.task!r}")
        return [find_task(name) for name in names]

    @property
    def gym_kwargs(self) -> dict:
        return {
            "image_size": self.image_size,
            "camera_shift": self._shift(),
            "hand_camera": self.hand_camera,
            "proprioception": self.proprioception,
            "state_only": self.state_only,
            "episode_length": self.episode_length,
        }

    def _shift(self) -> CameraShift | None:
        return None if self.camera_shift is None else CameraShift.parse(self.camera_shift)

    def get_env_processors(self) -> tuple[Any, Any]:
        """LeRobot's, and a step that tells how the cameras were moved, if that is wanted."""
        inputs, outputs = super().get_env_processors()
        if self.tell_camera_shift:
            shift = astuple(self._shift() or CameraShift())
            inputs.steps = [*inputs.steps, TellViewpoint(*shift, unmoved=(HAND_CAMERA,))]
        return inputs, outputs

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, VectorEnv]]:
        """{task name: {0: vector env}}, as LeRobot's evaluation wants it."""
        return {
            task.name: {
                0: make_vector(
                    partial(ManiSkillEnv, task.name, **self.gym_kwargs), n_envs, use_async_envs
                )
            }
            for task in self.tasks
        }

    def _image_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Camera name -> (height, width, 3); the tasks' cameras must agree."""
        shapes = {}
        for task in self.tasks:
            for name, camera in default_cameras(task).items():
                size = (self.image_size,) * 2 if self.image_size else (camera.height, camera.width)
                shapes[name] = (*size, 3)
        if self.hand_camera:
            size = self.image_size or 128
            shapes["hand_camera"] = (size, size, 3)
        return shapes
