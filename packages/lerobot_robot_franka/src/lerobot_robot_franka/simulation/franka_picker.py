"""A teacher for demonstrations: it sees the scene, and leads the hand as a person at a device does.

It is a device of LeRobot's kind, so it goes the way of every teleoperation: motions of the hand,
inverse kinematics, the robot's limits, Franka's protocol.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lerobot_robot_franka.simulation.config_franka_picker import FrankaPickerConfig
from lerobot_robot_franka.simulation.scene import HALF, Place
from lerobot_robot_franka.simulation.world import Watcher
from lerobot_robot_franka.teleoperator import PlainTeleoperator

CLOSE, STAY, OPEN = 0.0, 1.0, 2.0  # what LeRobot's devices say of a gripper
ABOVE, HIGH = 0.12, 0.25  # metres: where the hand waits above the cube, where it is lifted to
ALIGNED = 0.008  # metres and a tenth of a rad
GAIN, TURN_GAIN = 12.0, 4.0  # of the device's full motion, per metre and rad of what is left
NARROW = 2 * HALF + 0.015  # metres between fingers that have closed upon the cube


class FrankaPicker(PlainTeleoperator):
    """Goes over the cube, down, closes the hand and lifts it; from wherever it is."""

    config_class = FrankaPickerConfig
    name = "franka_picker"

    def __init__(self, config: FrankaPickerConfig) -> None:
        super().__init__(config)
        self.config = config
        self._watcher: Watcher | None = None
        self.scene: dict[str, Any] = {}

    @property
    def action_features(self) -> dict[str, type]:
        """See `Teleoperator`."""
        return dict.fromkeys(("delta_x", "delta_y", "delta_z", "delta_wz", "gripper"), float)

    @property
    def is_connected(self) -> bool:
        """Whether it sees the scene."""
        return self._watcher is not None

    def connect(self, calibrate: bool = True) -> None:
        """Begin to look."""
        self._watcher = Watcher(self.config.state_port)
        self.scene = self._watcher.look()

    def get_action(self) -> dict[str, Any]:
        """Where to lead the hand now. Raises zmq.Again where the simulation is gone."""
        assert self._watcher is not None
        self.scene = self._watcher.look()
        cube, hand = Place(*self.scene["cube"]), Place(*self.scene["hand"])
        return motion(cube, hand, self.scene["width"])

    def disconnect(self) -> None:
        """Look away."""
        self._watcher = None


def motion(cube: Place, hand: Place, width: float) -> dict[str, float]:
    """What a device says to bring the hand nearer to holding the cube in the air; width: between
    the fingers, metres."""
    away = np.array(cube[:3]) - hand[:3]
    turn = cube.turn - hand.turn
    over = float(np.linalg.norm(away[:2])) < ALIGNED and abs(turn) < 10 * ALIGNED
    around = over and abs(away[2]) < ALIGNED
    held = around and width < NARROW
    gripper = STAY
    if held:
        away = np.array([0.0, 0.0, HIGH - hand.z])
    elif around:
        away, gripper = np.zeros(3), CLOSE
    elif not over:
        away[2] = cube.z + ABOVE - hand.z
        gripper = OPEN
    shift = np.clip(GAIN * away, -1, 1)
    wz = float(np.clip(TURN_GAIN * turn, -1, 1))
    names = ("delta_x", "delta_y", "delta_z")
    return dict(zip(names, shift.tolist(), strict=True)) | {"delta_wz": wz, "gripper": gripper}
