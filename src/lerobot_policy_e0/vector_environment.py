"""Several of an environment at once, as LeRobot's training and evaluation want them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from lerobot.envs.utils import NEW_ROLLOUT_OPTION, freeze_after_episode_end


def make_vector(make: Callable[[], gymnasium.Env], count: int, use_async: bool) -> VectorEnv:
    """`count` environments, of a process each if `use_async`. make: makes one; picklable."""
    makers = [freeze_after_episode_end(partial(_wrapped, make))] * count
    if use_async and count > 1:
        # Renderers do not survive a fork.
        return AsyncVectorEnv(makers, context="spawn", autoreset_mode=AutoresetMode.NEXT_STEP)
    return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)


class _WithoutRolloutOption(gymnasium.Wrapper):
    """Takes LeRobot's mark of a new rollout, which is for the wrapper around this one, out of the
    reset options: the environment refuses options it does not know."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        known = {name: v for name, v in (options or {}).items() if name != NEW_ROLLOUT_OPTION}
        return self.env.reset(seed=seed, options=known)


def _wrapped(make: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    return _WithoutRolloutOption(make())
