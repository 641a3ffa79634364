"""How LIBERO's tasks are demonstrated: at which size, with which noise, and by which expert."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from e0_experts.cameras import CameraShift
from e0_libero.env import FREQUENCY, LiberoEnv
from e0_libero.experts import Expert
from e0_libero.tasks import task_names

if TYPE_CHECKING:
    from e0_experts.episodes import LeadIn

PUBLISHED_SIZE = 256  # pixels, of LeRobot's datasets
SLOWEST = 0.7  # share of the expert's usual speed
_MANNER_STREAM = 0x11B  # keeps pace and order apart from anything else drawn from the same seed


def demonstrator(env: LiberoEnv, seed: int) -> Expert:
    """The expert of an environment that was reset with this seed, which also says how fast it
    moves, and in which order it does what may be done in any. The scene tells nothing of it."""
    rng = np.random.default_rng([seed, _MANNER_STREAM])
    return Expert(env.simulator, pace=float(rng.uniform(SLOWEST, 1.0)), rng=rng)


@dataclass(frozen=True)
class LiberoSettings:
    """How episodes are made; the arguments of `LiberoEnv` and `run_expert`."""

    frame_rate: ClassVar[int] = FREQUENCY

    image_size: int | None = PUBLISHED_SIZE
    camera_shift: CameraShift | None = None
    official_states: bool = False
    action_noise: float = 0.0
    noise_probability: float = 0.4
    hold_steps: int = 0

    def __post_init__(self) -> None:
        size = self.image_size
        if size is not None and (type(size) is not int or size < 1):
            raise ValueError(f"image_size must be a whole number of at least 1 pixel, got {size!r}")

    @property
    def lead_in(self) -> LeadIn | None:
        """None: these experts begin at the beginning."""
        return None

    def task_names(self, tasks: Sequence[str]) -> list[str]:
        """See `CollectionSettings`; a suite stands for its ten tasks."""
        return task_names(tasks)

    def make_env(self, task: str) -> LiberoEnv:
        """See `CollectionSettings`."""
        return LiberoEnv(
            task,
            image_size=self.image_size,
            camera_shift=self.camera_shift,
            official_states=self.official_states,
        )

    def demonstrator(self, env: LiberoEnv, seed: int) -> Expert:
        """See `demonstrator`."""
        return demonstrator(env, seed)

    def record(self, task: str) -> dict[str, Any]:
        """See `CollectionSettings`."""
        data = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in data.items() if value or name != "camera_shift"}

    def worker_setup(self) -> Callable[[], None]:
        """See `CollectionSettings`."""
        return _set_up_worker


def _set_up_worker() -> None:
    torch.set_num_threads(1)
