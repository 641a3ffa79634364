"""A hand of 24 joints on an arm of 4 opens a door with a latch (Rajeswaran et al., arXiv
1709.10087), in the simulation of Gymnasium-Robotics."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

ACTION_SIZE, HAND_SIZE, DOOR_SIZE = 28, 30, 9
FREQUENCY = 100  # steps a second
OPEN = 1.0  # rad
STAGES = {"ajar (.2 rad)": 0.2, "open (1 rad)": OPEN}

Observation = dict[str, np.ndarray]


class AdroitDoor(gym.Env):
    """LeRobot's form of `AdroitHandDoor-v1`: the door stands elsewhere in every episode.

    Observations: `agent_pos` (30,), 27 joints in rad (the arm's translation in m) and where the
    palm is, m; `environment_state` (9,), latch and hinge in rad, the handle's place and that of the
    palm from there, m, and 1 if the door is open by more than 1 rad, else -1. Actions (28,): where
    the motors are to go, -1 to 1 over each one's range; what is outside counts as the end, as in
    the simulation that people demonstrated in. `is_success`: opened by 1.35 rad, which ends the
    episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FREQUENCY}  # noqa: RUF012 (Gymnasium's)
    task_description = "open the door"
    stages = tuple(STAGES)
    render_mode = "rgb_array"

    def __init__(self) -> None:
        import gymnasium_robotics  # tells of its rewards, which are not used here

        gym.register_envs(gymnasium_robotics)
        made = gym.make("AdroitHandDoor-v1", render_mode="rgb_array", disable_env_checker=True)
        self.simulation: Any = made.unwrapped
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self.observation_space = spaces.Dict(
            agent_pos=spaces.Box(-np.inf, np.inf, (HAND_SIZE,), np.float32),
            environment_state=spaces.Box(-np.inf, np.inf, (DOOR_SIZE,), np.float32),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Shut the door, at a place that the seed draws."""
        super().reset(seed=seed)
        return _parts(self.simulation.reset(seed=seed)[0]), self._info(False)

    def start_from(self, state: dict[str, np.ndarray]) -> Observation:
        """Put joints and door where a demonstration began; `reset` must have been called."""
        self.simulation.set_env_state(state)
        return _parts(self.simulation._get_obs())

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move towards the targets for 10 ms. Raises ValueError for an action of another shape, or
        with NaN or infinity."""
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (ACTION_SIZE,) or not np.isfinite(action).all():
            raise ValueError(
                f"an action must be {ACTION_SIZE} finite numbers, got shape {action.shape}"
                + (" with NaN or infinity" if action.shape == (ACTION_SIZE,) else "")
            )
        observation, reward, _, _, info = self.simulation.step(action)
        success = bool(info["success"])
        return _parts(observation), float(reward), success, False, self._info(success)

    @property
    def opened(self) -> float:
        """By how much the door is open, rad."""
        return float(self.simulation.data.qpos[self.simulation.door_hinge_addrs])

    def render(self) -> np.ndarray:
        """A picture, uint8 (height, width, 3)."""
        return self.simulation.render()

    def close(self) -> None:
        self.simulation.close()

    def _info(self, success: bool) -> dict[str, Any]:
        return {
            "is_success": success,
            "stage": sum(self.opened >= least for least in STAGES.values()),
        }


def _parts(observation: np.ndarray) -> Observation:
    """27 joints, latch, hinge, palm, handle, palm from handle, whether it is open."""
    joints, door, palm, rest = np.split(observation.astype(np.float32), [27, 29, 32])
    return {
        "agent_pos": np.concatenate([joints, palm]),
        "environment_state": np.concatenate([door, rest]),
    }
