"""Cameras: where they stand, where they look, and how large their pictures are.

World frame: metres, x away from the robot's base (which stands at x = -0.615), y to the robot's
left, z up, the table's surface at z = 0.
"""

import math
from dataclasses import dataclass, replace

from e0_maniskill.tasks import Task

HAND_CAMERA = "hand_camera"

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """A camera at `eye` which looks at `target`, its picture's horizontal edge level.

    Attributes:
        eye: position (x, y, z) in metres.
        target: the point (x, y, z) in the centre of the picture.
        field_of_view: vertical opening angle in radians.
        width, height: picture size in pixels.

    Raises:
        ValueError: a point is not three finite numbers, the line of sight is vertical or of no
            length, the field of view is not within (0, pi), or the size is not positive.
    """

    eye: Point
    target: Point
    field_of_view: float
    width: int = 128
    height: int = 128

    def __post_init__(self) -> None:
        for name in ("eye", "target"):
            object.__setattr__(self, name, _point(name, getattr(self, name)))
        if math.dist(self.eye[:2], self.target[:2]) < 1e-6:
            raise ValueError(
                f"camera at {self.eye} looks straight up or down at {self.target}, so its roll is "
                "undefined; move the eye a little to the side"
            )
        if not 0 < self.field_of_view < math.pi:
            raise ValueError(
                f"field_of_view must lie within (0, pi) radians, got {self.field_of_view}"
            )
        for name in ("width", "height"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a positive whole number of pixels, got {size!r}")

    def resized(self, size: int) -> "Camera":
        """The same camera with a square picture of `size` x `size` pixels."""
        return replace(self, width=size, height=size)

    def moved(self, azimuth: float, elevation: float, radius: float) -> "Camera":
        """The camera moved on the sphere around its target, still looking at it.

        Args:
            azimuth: radians around the vertical axis, counter-clockwise seen from above.
            elevation: radians upwards.
            radius: metres away from the target.

        Raises:
            ValueError: the move passes over a pole or through the target.
        """
        x, y, z = (e - t for e, t in zip(self.eye, self.target, strict=True))
        new_radius = math.hypot(x, y, z) + radius
        new_elevation = math.atan2(z, math.hypot(x, y)) + elevation
        new_azimuth = math.atan2(y, x) + azimuth
        if new_radius <= 0 or abs(new_elevation) >= math.pi / 2:
            raise ValueError(
                f"moving by elevation {elevation:.3f} rad and radius {radius:.3f} m takes the "
                f"camera over a pole or through its target (elevation {new_elevation:.3f} rad, "
                f"radius {new_radius:.3f} m)"
            )
        level = new_radius * math.cos(new_elevation)
        offset = (
            level * math.cos(new_azimuth),
            level * math.sin(new_azimuth),
            new_radius * math.sin(new_elevation),
        )
        eye = tuple(t + o for t, o in zip(self.target, offset, strict=True))
        return replace(self, eye=eye)


def _point(name: str, value: Point) -> Point:
    point = tuple(float(coordinate) for coordinate in value)
    if len(point) != 3 or not all(map(math.isfinite, point)):
        raise ValueError(f"{name} must be three finite coordinates in metres, got {value!r}")
    return point


_BASE_CAMERAS = {
    "PickCube-v1": Camera(eye=(0.5, 0.0, 0.45), target=(0.03, 0.0, 0.05), field_of_view=0.7),
    "PushCube-v1": Camera(eye=(0.5, 0.0, 0.45), target=(0.03, 0.0, 0.05), field_of_view=0.7),
    "StackCube-v1": Camera(eye=(0.5, 0.0, 0.65), target=(0.02, 0.0, 0.03), field_of_view=0.9),
    "PegInsertionSide-v1": Camera(
        eye=(0.65, -0.45, 0.55), target=(0.0, -0.03, 0.06), field_of_view=0.9
    ),
    "PickNamedCube-v1": Camera(eye=(0.5, 0.0, 0.45), target=(0.01, 0.0, 0.06), field_of_view=0.62),
    "PlugCharger-v1": Camera(eye=(-0.3, 0.45, 0.4), target=(-0.02, 0.03, 0.04), field_of_view=0.74),
}


def default_cameras(task: Task) -> dict[str, Camera]:
    """One fixed camera, `base_camera`, filled by the objects in play, the gripper and the hole."""
    return {"base_camera": _BASE_CAMERAS[task.name]}
