"""Scripted experts: closed-loop, they see the simulator's true state.

The expert steers the tool towards the current waypoint of its plan with a proportional step, and
asks for the next one when the tool is close enough.
"""

import numpy as np

from e0_experts.waypoints import Follower
from e0_maniskill.env import ManiSkillEnv
from e0_maniskill.plans import PLANS
from e0_maniskill.waypoints import Scene


class Expert:
    """Solves the current episode of an environment from where it is; make a new one after every
    reset.

    Call `act` before every step of the environment. When its plan ends, the expert keeps steering
    to the last waypoint.

    Args:
        env: has been reset.
        way: which of the task's ways to go, counted as in `Task.ways`; 0 where there is only one.

    Raises:
        ValueError: the task has no such way.
    """

    def __init__(self, env: ManiSkillEnv, way: int = 0) -> None:
        known = max(1, len(env.specification.ways))
        if not 0 <= way < known:
            raise ValueError(f"{env.task} has {known} way(s), counted from 0; got way {way}")
        scene = Scene(env, way)
        arm = env.simulator.agent.controller.controllers["arm"].config
        self._follower = Follower(
            PLANS[env.task](scene),
            scene.tool,
            metres=float(arm.pos_upper),
            # ManiSkill multiplies rotations by the lower bound, which is negative: the sign flips.
            radians=float(arm.rot_lower),
        )

    @property
    def delicate(self) -> bool:
        """Whether the action given last must be executed undisturbed."""
        return self._follower.delicate

    def act(self) -> np.ndarray:
        """The next action, float32 (7,) within [-1, 1], given the simulator's present state."""
        return self._follower.act()
