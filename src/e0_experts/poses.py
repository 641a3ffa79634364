"""Rigid poses: the little geometry that experts need."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Pose:
    """A position (3, metres) and a rotation; `a * b` is pose b given in the frame of pose a."""

    position: np.ndarray
    rotation: Rotation

    @staticmethod
    def from_wxyz(pose: np.ndarray) -> "Pose":
        """From position and quaternion (w, x, y, z) in one vector of 7, as ManiSkill gives them."""
        vector = np.asarray(pose, dtype=np.float64)
        return Pose(vector[:3], Rotation.from_quat(vector[[4, 5, 6, 3]]))

    def __mul__(self, other: "Pose") -> "Pose":
        position = self.position + self.rotation.apply(other.position)
        return Pose(position, self.rotation * other.rotation)

    def inverse(self) -> "Pose":
        """The pose p for which `p * self` is the identity."""
        rotation = self.rotation.inv()
        return Pose(-rotation.apply(self.position), rotation)

    def raised(self, height: float) -> "Pose":
        """The same pose, `height` metres higher in the world."""
        return Pose(self.position + height * UP, self.rotation)

    def yaw(self) -> float:
        """Angle around the vertical axis, in radians."""
        return float(self.rotation.as_euler("ZYX")[0])


def translation(x: float, y: float, z: float) -> Pose:
    """A pose without rotation."""
    return Pose(np.array([x, y, z], dtype=np.float64), Rotation.identity())


def gripper_down(yaw: float) -> Rotation:
    """The gripper pointing down; its fingers close along the horizontal direction yaw + 90 deg."""
    return Rotation.from_euler("z", yaw) * Rotation.from_euler("x", np.pi)


def nearest_angle(angle: float, reference: float, period: float) -> float:
    """Of all angles equal to `angle` up to multiples of `period`, the closest to `reference`."""
    return reference + (angle - reference + period / 2) % period - period / 2
