"""What the arms can do, as their maker says, and which targets are refused.

Sources: Franka's "Robot and interface specifications" (frankarobotics.github.io/docs), sections on
the Franka Research 3 and the Franka Emika Robot (Panda). The velocity of an FR3's joint near the
ends of its range is limited further; the margin and the share of the velocity that `FrankaConfig`
leaves unused are meant for that.

Units: radians, seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lerobot_robot_franka.errors import ConnectError, UnsafeActionError

JOINTS = 7
NOISE = 2e-3  # rad; positions are measured
JOINT_NAMES = tuple(f"joint_{number}" for number in range(1, JOINTS + 1))


@dataclass(frozen=True)
class ArmLimits:
    """Each of seven numbers, of joints 1 to 7."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    velocity: tuple[float, ...]
    acceleration: tuple[float, ...]


FR3 = ArmLimits(
    lower=(-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159),
    upper=(2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159),
    velocity=(2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26),
    acceleration=(10.0,) * 7,
)
PANDA = ArmLimits(
    lower=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
    upper=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
    velocity=(2.1750, 2.1750, 2.1750, 2.1750, 2.6100, 2.6100, 2.6100),
    acceleration=(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
)
ARMS = {"fr3": FR3, "panda": PANDA}


@dataclass(frozen=True)
class Allowed:
    """Targets that an arm may be sent: within its range less a margin, and no further than
    `max_step` from where it was told to be last. All (7,), radians."""

    lower: np.ndarray
    upper: np.ndarray
    max_step: float

    @classmethod
    def of(cls, limits: ArmLimits, margin: float, max_step: float) -> Allowed:
        """The range of an arm less a margin at both ends."""
        return cls(np.array(limits.lower) + margin, np.array(limits.upper) - margin, max_step)

    def check(self, target: np.ndarray, present: np.ndarray) -> None:
        """Raise UnsafeActionError, naming the joint, for a target (7,) that is NaN or infinite, out
        of range (and further out than `present`), or too far from `present` (7,)."""
        if target.shape != (JOINTS,):
            raise UnsafeActionError(f"a target needs {JOINTS} joints, got shape {target.shape}")
        self.check_range(target, present)
        for name, value, here in zip(JOINT_NAMES, target, present, strict=True):
            if abs(value - here) > self.max_step:
                raise UnsafeActionError(
                    f"{name}.pos = {value:.3f} rad is {abs(value - here):.3f} away from "
                    f"{here:.3f}, where the arm is told to be: more than max_step = "
                    f"{self.max_step}. Is the action absolute, in radians, and of this robot?"
                )

    def check_range(self, target: np.ndarray, present: np.ndarray | None = None) -> None:
        """Raise UnsafeActionError for a target (7,) that is NaN or infinite, or out of range; a
        joint that already is may stay where it is at `present` (7,), or come back."""
        low, high = self.lower, self.upper
        if present is not None:
            low, high = np.minimum(low, present - NOISE), np.maximum(high, present + NOISE)
        for place, name in enumerate(JOINT_NAMES):
            value = float(target[place])
            if not np.isfinite(value):
                raise UnsafeActionError(f"{name}.pos is {value}: the action holds no number")
            if not low[place] <= value <= high[place]:
                raise UnsafeActionError(
                    f"{name}.pos = {value:.3f} rad is outside {self.lower[place]:.3f} to "
                    f"{self.upper[place]:.3f}, the joint's range less the margin"
                )

    def limited(self, target: np.ndarray, present: np.ndarray) -> np.ndarray:
        """The target (7,) brought into range, and no further than `max_step` from `present`. Raises
        UnsafeActionError for NaN and infinity."""
        if not np.isfinite(target).all():
            self.check_range(target)
        inside = np.clip(target, self.lower, self.upper)
        return np.clip(inside, present - self.max_step, present + self.max_step)


def require_within(limits: ArmLimits, positions: np.ndarray) -> None:
    """Raise ConnectError for an arm whose joints (7,) lie where this arm's cannot be."""
    for name, value, low, high in zip(
        JOINT_NAMES, positions, limits.lower, limits.upper, strict=True
    ):
        if not low - NOISE <= value <= high + NOISE:
            raise ConnectError(
                f"{name} is at {value:.3f} rad, outside its range of {low} to {high}: is "
                "--robot.arm right? Otherwise move the arm by hand"
            )
