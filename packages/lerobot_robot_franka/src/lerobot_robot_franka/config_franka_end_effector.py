"""Settings of `--teleop.type=franka_end_effector`."""

import operator
from dataclasses import dataclass, field
from typing import Any

# LeRobot's devices are found by their types once they are imported; not all its commands do it.
from lerobot.teleoperators import TeleoperatorConfig, gamepad, keyboard  # noqa: F401

BOUNDS = {"speed": (0.001, 0.5), "turn_speed": (0.01, 2.0)}


@TeleoperatorConfig.register_subclass("franka_end_effector")
@dataclass(kw_only=True)
class FrankaEndEffectorConfig(TeleoperatorConfig):
    """A device of LeRobot's that moves the hand of the Franka arm that is connected.

    device: its LeRobot type and settings, as {type: gamepad} or {type: keyboard_ee}. speed, m/s,
    and turn_speed, rad/s: of the hand where the device says 1. workspace_lower, workspace_upper:
    corners (x, y, z) of the box that the point between the finger tips stays in, m, in the frame of
    the arm's base: x forward, y left, z up.
    """

    device: dict[str, Any] = field(default_factory=lambda: {"type": "gamepad"})
    speed: float = 0.1
    turn_speed: float = 0.5
    workspace_lower: list[float] = field(default_factory=lambda: [0.2, -0.5, 0.02])
    workspace_upper: list[float] = field(default_factory=lambda: [0.8, 0.5, 0.8])

    def __post_init__(self) -> None:
        known = TeleoperatorConfig.get_known_choices()
        if self.device.get("type") not in known:
            raise ValueError(
                f"device must have a type that LeRobot knows, as {{type: gamepad}}, got "
                f"{self.device}; known: {', '.join(sorted(known))}"
            )
        for name, (low, high) in BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {getattr(self, name)}")
        lower, upper = self.workspace_lower, self.workspace_upper
        if not len(lower) == len(upper) == 3 or not all(map(operator.lt, lower, upper)):
            raise ValueError(
                "workspace_lower and workspace_upper must be three numbers each, and all of lower "
                f"below those of upper, got {lower} and {upper}"
            )
