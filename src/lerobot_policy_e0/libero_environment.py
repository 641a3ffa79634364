"""`--env.type=libero_camera`: LIBERO's tasks with an agent view that can be moved."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from gymnasium.vector import VectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from e0_experts.cameras import CameraShift
from lerobot_policy_e0.vector_environment import make_vector


@EnvConfig.register_subclass("libero_camera")
@dataclass
class LiberoCameraEnvConfig(EnvConfig):
    """A suite of LIBERO or one of its tasks, as `libero_goal/3`: what LeRobot's own
    `--env.type=libero` shows a policy, and for the same seed the same episode; see
    `e0_libero.env.LiberoEnv`.

    camera_shift: "azimuth,elevation,radius,roll" of the agent view on the sphere around what it
    looks at: degrees, degrees, a factor, degrees. Episode k begins at official initial state k.

    A suite of LIBERO-Plus's camera axis, as `libero_goal_camera`, is one task; episode k has
    viewpoint k, see `e0_libero.camera_suite.CameraSuiteEnv`.
    """

    task: str | None = "libero_object"
    fps: int = 20
    image_size: int = 256
    camera_shift: str | None = None

    def __post_init__(self) -> None:
        from e0_libero.env import ACTION_SIZE, CAMERAS, STATE_SIZE
        from e0_libero.plus import SUITES

        if self._shift() is not None and self.task in SUITES:
            raise ValueError(
                f"{self.task} moves the camera itself: leave camera_shift out, or take another task"
            )
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, (ACTION_SIZE,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (STATE_SIZE,)),
        }
        self.features_map = {ACTION: ACTION, "agent_pos": OBS_STATE}
        for name in CAMERAS:
            shape = (self.image_size, self.image_size, 3)
            self.features[name] = PolicyFeature(FeatureType.VISUAL, shape)
            self.features_map[name] = f"{OBS_IMAGES}.{name}"

    @property
    def gym_kwargs(self) -> dict:
        return {
            "image_size": self.image_size,
            "camera_shift": self._shift(),
            "official_states": True,
        }

    def _shift(self) -> CameraShift | None:
        return None if self.camera_shift is None else CameraShift.parse(self.camera_shift)

    def create_envs(
        self, n_envs: int, use_async_envs: bool = False
    ) -> dict[str, dict[int, VectorEnv]]:
        """{suite: {number of the task: vector env}}, as LeRobot's evaluation wants it."""
        from e0_libero.camera_suite import CameraSuiteEnv
        from e0_libero.env import LiberoEnv
        from e0_libero.plus import SUITES
        from e0_libero.tasks import task_names

        task = self.task or ""
        if task in SUITES:
            make = partial(CameraSuiteEnv, task, image_size=self.image_size)
            return {task: {0: make_vector(make, n_envs, use_async_envs)}}
        vectors: dict[str, dict[int, VectorEnv]] = {}
        for name in task_names([task]):
            suite, _, number = name.partition("/")
            make = partial(LiberoEnv, name, **self.gym_kwargs)
            vectors.setdefault(suite, {})[int(number)] = make_vector(make, n_envs, use_async_envs)
        return vectors
