"""Cameras: where they stand, where they look, and how large their pictures are.

In the frame of the world: metres, z up.
"""

import math
from dataclasses import dataclass, replace

Point = tuple[float, float, float]


@dataclass(frozen=True)
class CameraShift:
    """How a camera is displaced on the sphere around its target.

    Attributes:
        azimuth: degrees around the vertical axis, counter-clockwise seen from above.
        elevation: degrees upwards.
        radius: factor of the distance to the target.
        roll: degrees that the camera is turned clockwise about its line of sight.
    """

    azimuth: float = 0.0
    elevation: float = 0.0
    radius: float = 1.0
    roll: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "CameraShift":
        """A shift from "azimuth,elevation,radius,roll", as in "15,5,1.1,0".

        Raises:
            ValueError: these are not four finite numbers, or the radius is not positive.
        """
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != 4 or not all(map(math.isfinite, numbers)) or numbers[2] <= 0:
            raise ValueError(
                "a camera's shift is azimuth,elevation,radius,roll: degrees, degrees, a positive "
                f"factor, degrees, as in 15,5,1.1,0; got {text!r}"
            )
        return cls(*numbers)


@dataclass(frozen=True)
class Camera:
    """A camera at `eye` which looks at `target`, its picture's horizontal edge level.

    Attributes:
        eye: position (x, y, z) in metres.
        target: the point (x, y, z) in the centre of the picture.
        field_of_view: vertical opening angle in radians.
        width, height: picture size in pixels.
        roll: degrees that it is turned clockwise about its line of sight, so that the edge is level
            no more.

    Raises:
        ValueError: a point is not three finite numbers, the line of sight is vertical or of no
            length, the field of view is not within (0, pi), or the size is not positive.
    """

    eye: Point
    target: Point
    field_of_view: float
    width: int = 128
    height: int = 128
    roll: float = 0.0

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

    def moved(self, shift: CameraShift) -> "Camera":
        """The camera moved on the sphere around its target, still looking at it.

        Raises:
            ValueError: the move passes over a pole or into the target.
        """
        x, y, z = (e - t for e, t in zip(self.eye, self.target, strict=True))
        radius = math.hypot(x, y, z) * shift.radius
        elevation = math.atan2(z, math.hypot(x, y)) + math.radians(shift.elevation)
        azimuth = math.atan2(y, x) + math.radians(shift.azimuth)
        if radius <= 0 or abs(elevation) >= math.pi / 2:
            raise ValueError(
                f"moving by elevation {shift.elevation:g} degrees and radius x{shift.radius:g} "
                "takes the camera over a pole or into its target (elevation "
                f"{math.degrees(elevation):.1f} degrees, radius {radius:.3f} m)"
            )
        level = radius * math.cos(elevation)
        offset = (
            level * math.cos(azimuth),
            level * math.sin(azimuth),
            radius * math.sin(elevation),
        )
        eye = tuple(t + o for t, o in zip(self.target, offset, strict=True))
        return replace(self, eye=eye, roll=self.roll + shift.roll)


def _point(name: str, value: Point) -> Point:
    point = tuple(float(coordinate) for coordinate in value)
    if len(point) != 3 or not all(map(math.isfinite, point)):
        raise ValueError(f"{name} must be three finite coordinates in metres, got {value!r}")
    return point
