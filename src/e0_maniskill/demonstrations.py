"""How ManiSkill's tasks are demonstrated: with which cameras, which noise, and by which expert."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from e0_experts.cameras import Camera, CameraShift
from e0_maniskill.cameras import default_cameras
from e0_maniskill.env import ManiSkillEnv, Proprioception
from e0_maniskill.experts import Expert
from e0_maniskill.rendering import assume_render_backend, render_backend
from e0_maniskill.tasks import CONTROL_FREQUENCY, find_task

if TYPE_CHECKING:
    from e0_experts.episodes import LeadIn

_WAY_STREAM = 0x3A7  # keeps the choice of a way apart from anything else drawn from the same seed


def demonstrated_way(task: str, seed: int) -> int:
    """Which way the expert goes in the demonstration of this seed, counted as in `Task.ways`; 0 for
    a task with one. The scene, also drawn from the seed, tells nothing of it.

    Raises:
        ValueError: unknown task.
    """
    ways = find_task(task).ways
    rng = np.random.default_rng([seed, _WAY_STREAM])
    return int(rng.choice(len(ways), p=ways)) if ways else 0


def demonstrator(env: ManiSkillEnv, seed: int) -> Expert:
    """The expert of an environment in the episode of this seed. Where a task can be done in several
    ways it goes the one that is being gone, and otherwise, as after a reset, `demonstrated_way`."""
    gone = int(env.simulator.evaluate()["way"][0]) if env.specification.ways else -1
    return Expert(env, demonstrated_way(env.task, seed) if gone < 0 else gone)


@dataclass(frozen=True)
class ManiSkillSettings:
    """How episodes are made; the arguments of `ManiSkillEnv` and `run_expert`.

    `cameras` holds for all tasks; None means each task's own.
    """

    frame_rate: ClassVar[int] = CONTROL_FREQUENCY

    cameras: Mapping[str, Camera] | None = None
    camera_shift: CameraShift | None = None
    depth: bool = False
    hand_camera: bool = False
    image_size: int | None = None
    proprioception: Proprioception = "full"
    state_only: bool = False
    episode_length: int | None = None
    action_noise: float = 0.0
    noise_probability: float = 0.4
    hold_steps: int = 0
    lead_in: LeadIn | None = None

    def task_names(self, tasks: Sequence[str]) -> list[str]:
        """See `CollectionSettings`."""
        return [find_task(task).name for task in tasks]

    def make_env(self, task: str) -> ManiSkillEnv:
        """See `CollectionSettings`."""
        spare_garbage_collector()
        return ManiSkillEnv(
            task,
            cameras=self.cameras,
            camera_shift=self.camera_shift,
            depth=self.depth,
            hand_camera=self.hand_camera,
            image_size=self.image_size,
            proprioception=self.proprioception,
            state_only=self.state_only,
            episode_length=self.episode_length,
        )

    def demonstrator(self, env: ManiSkillEnv, seed: int) -> Expert:
        """See `demonstrator`."""
        return demonstrator(env, seed)

    def record(self, task: str) -> dict[str, Any]:
        """See `CollectionSettings`."""
        cameras = default_cameras(find_task(task)) if self.cameras is None else self.cameras
        if self.camera_shift is not None:
            cameras = {name: camera.moved(self.camera_shift) for name, camera in cameras.items()}
        own = ("cameras", "camera_shift", "depth", "lead_in")
        data = {name: value for name, value in vars(self).items() if name not in own}
        # Earlier records do not tell of these.
        data |= {"depth": True} if self.depth else {}
        data |= {"lead_in": self.lead_in.record()} if self.lead_in else {}
        data["cameras"] = {name: _camera_record(camera) for name, camera in cameras.items()}
        return json.loads(json.dumps(data))

    def worker_setup(self) -> Callable[[], None]:
        """See `CollectionSettings`: how to render is found out once, here."""
        return partial(_set_up_worker, None if self.state_only else render_backend())


def _camera_record(camera: Camera) -> dict[str, Any]:
    """A camera as data; earlier records know no roll, so none is told where there is none."""
    data = asdict(camera)
    if camera.roll == 0:
        del data["roll"]
    return data


def _set_up_worker(backend: str | None) -> None:
    import torch

    torch.set_num_threads(1)
    if backend is not None:
        assume_render_backend(backend)


def spare_garbage_collector() -> None:
    """Keep what this process holds now out of Python's garbage collection.

    ManiSkill collects garbage in every reset. Looking at all that was imported takes four times as
    long as building the scene, and none of it is garbage.
    """
    import mani_skill.envs  # noqa: F401  (the largest part of it)

    gc.unfreeze()
    gc.collect()
    gc.freeze()
