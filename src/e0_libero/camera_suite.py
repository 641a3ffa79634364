"""A suite of LIBERO-Plus's camera axis as one environment, another viewpoint each episode."""

from __future__ import annotations

from typing import Any

import gymnasium

from e0_libero.env import LiberoEnv
from e0_libero.plus import SUITES, CameraTask, camera_tasks
from e0_libero.tasks import tasks_of


class CameraSuiteEnv(gymnasium.Wrapper):
    """All tasks of a suite such as `libero_goal_camera`, in turn. What a policy sees is as in
    `LiberoEnv`.

    The episode of seed k is task k of `camera_tasks`, counted modulo their number. As in
    LIBERO-Plus, it begins at official initial state 0 of LIBERO's task; without a seed, `reset`
    goes on to the next. The instruction is LIBERO's: that of LIBERO-Plus's list has the numbers of
    the viewpoint behind it.

    Raises CameraSuiteError, AssetsMissingError, and ValueError for a size that is none.
    """

    def __init__(self, suite: str, *, image_size: int | None = None) -> None:
        self._tasks, self._size = camera_tasks(suite), image_size
        self._shown = SUITES[suite]
        shown = tasks_of(self._shown)
        self._numbers = {task.name: number for number, task in enumerate(shown)}
        self.instructions = tuple(dict.fromkeys(task.language for task in shown))
        self._seed = self._next = 0
        super().__init__(self._environment(self.camera_task))

    @property
    def camera_task(self) -> CameraTask:
        """That of the present episode."""
        return self._tasks[self._seed % len(self._tasks)]

    @property
    def variant(self) -> str:
        """What LIBERO-Plus calls the present episode's task."""
        return self.camera_task.name

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin the episode of a seed; of the one after the last, of 0 first, if none is given."""
        self._seed = self._next if seed is None else seed
        self._next = self._seed + 1
        self.env.close()
        self.env = self._environment(self.camera_task)
        return self.env.reset(seed=0)

    def _environment(self, task: CameraTask) -> LiberoEnv:
        name = f"{self._shown}/{self._numbers[task.base]}"
        return LiberoEnv(
            name, image_size=self._size, viewpoint=task.viewpoint, official_states=True
        )
