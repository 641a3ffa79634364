"""Cameras on a sphere around the point that they look at.

World frame: z up, metres. Camera frame (OpenCV): x right, y down, z forward. Extrinsics are
(..., 4, 4) and take world to camera coordinates. Angles are degrees at every door and radians
nowhere outside a function. B samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MAXIMUM_ANGLE = 90.0
OVER_THE_TOP = 180.0


class SphericalCamera(NamedTuple):
    """Where a camera stands, each (...): azimuth counter-clockwise around the vertical from the
    world's x, elevation above the horizontal, metres to the point it looks at, roll clockwise as
    seen in its picture; and that point (..., 3).

    Straight above its point azimuth turns the picture as roll does, the other way round. Beyond 90
    degrees of elevation a camera has gone over the top, its picture upside down: an elevation of 95
    is one of 85 from the opposite side, with half a turn of roll."""

    azimuth: Tensor
    elevation: Tensor
    radius: Tensor
    roll: Tensor
    look_at: Tensor


class Perturbation(NamedTuple):
    """How cameras move on their spheres, each (B,): degrees of azimuth, elevation and roll, and the
    factor of the radius. Zero, zero, one and zero leave a camera where it is."""

    azimuth: Tensor
    elevation: Tensor
    radius: Tensor
    roll: Tensor

    @classmethod
    def none(cls, count: int, device: torch.device | str | None = None) -> Perturbation:
        """No movement, of `count` cameras."""
        zero = torch.zeros(count, device=device)
        return cls(zero, zero, zero + 1, zero)

    def where(self, chosen: Tensor) -> Perturbation:
        """This movement where `chosen` (B,) is True, none elsewhere."""
        still = Perturbation.none(len(chosen), chosen.device)
        return Perturbation(*(torch.where(chosen, a, b) for a, b in zip(self, still, strict=True)))

    def embedding(self) -> Tensor:
        """(B, 5) numbers of order one for a network: the angles in radians, the radius' logarithm,
        and a one that says they are known; all zero where nothing is known."""
        angles = [torch.deg2rad(a) for a in (self.azimuth, self.elevation, self.roll)]
        known = torch.ones_like(self.radius)
        return torch.stack((*angles, self.radius.log(), known), dim=-1)


@dataclass(frozen=True)
class PerturbationRange:
    """How far cameras may move: up to so many degrees to either side, and the radius by a factor
    between 1 / (1 + radius) and 1 + radius.

    distribution: `uniform` within these bounds, or `normal` with half of them as the deviation,
    drawn again beyond them. Raises ValueError for negative or too large bounds.
    """

    azimuth: float = 15.0
    elevation: float = 10.0
    radius: float = 0.1
    roll: float = 0.0
    distribution: str = "uniform"

    def __post_init__(self) -> None:
        for name in ("azimuth", "elevation", "roll"):
            if not 0 <= getattr(self, name) < MAXIMUM_ANGLE:
                raise ValueError(
                    f"{name} must lie within [0, {MAXIMUM_ANGLE:.0f}) degrees, got "
                    f"{getattr(self, name)}: beyond a hemisphere nothing of the picture is left"
                )
        if not 0 <= self.radius < math.inf:
            raise ValueError(f"radius must not be negative, got {self.radius}")
        if self.distribution not in ("uniform", "normal"):
            raise ValueError(f"unknown distribution {self.distribution!r}; known: uniform, normal")

    def corners(self) -> Perturbation:
        """The eight movements that go farthest, without roll."""
        shares = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3).T
        return Perturbation(
            azimuth=self.azimuth * shares[0],
            elevation=self.elevation * shares[1],
            radius=(1 + self.radius) ** shares[2],
            roll=torch.zeros(shares.shape[1]),
        )

    def draw(
        self,
        count: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Perturbation:
        """Movements of `count` cameras; the same for the same state of the generator."""
        share = self._shares(4 * count, generator, device).view(4, count)
        return Perturbation(
            azimuth=self.azimuth * share[0],
            elevation=self.elevation * share[1],
            radius=(1 + self.radius) ** share[2],
            roll=self.roll * share[3],
        )

    def _shares(
        self, count: int, generator: torch.Generator | None, device: torch.device | str | None
    ) -> Tensor:
        """Numbers in [-1, 1]."""
        uniform = torch.rand(count, generator=generator, device=device)
        if self.distribution == "uniform":
            return 2 * uniform - 1
        # A normal cut at two deviations, by its inverse distribution function.
        edge = 0.5 * (1 + math.erf(-2 / math.sqrt(2)))
        return torch.special.ndtri(edge + (1 - 2 * edge) * uniform) / 2


def to_extrinsics(camera: SphericalCamera) -> Tensor:
    """World-to-camera matrices (..., 4, 4) of cameras that look at their points.

    Raises ValueError for a radius that is not positive, and elevations beyond ±180 degrees.
    """
    if not (camera.radius > 0).all():
        raise ValueError("the radius of a camera's sphere must be positive, in metres")
    if not (camera.elevation.abs() <= OVER_THE_TOP).all():
        raise ValueError(
            f"elevation must lie within ±{OVER_THE_TOP:.0f} degrees, got "
            f"{camera.elevation.flatten().tolist()[:5]}"
        )
    azimuth, elevation, roll = (
        torch.deg2rad(angle) for angle in (camera.azimuth, camera.elevation, camera.roll)
    )
    zero = torch.zeros_like(azimuth)
    outward = torch.stack(
        (
            elevation.cos() * azimuth.cos(),
            elevation.cos() * azimuth.sin(),
            elevation.sin(),
        ),
        dim=-1,
    )
    right = torch.stack((-azimuth.sin(), azimuth.cos(), zero), dim=-1)
    down = torch.linalg.cross(-outward, right)
    level = torch.stack((right, down, -outward), dim=-2)
    rotation = _about_z(-roll) @ level
    position = camera.look_at + camera.radius[..., None] * outward
    return _rigid(rotation, -(rotation @ position[..., None])[..., 0])


def from_extrinsics(extrinsics: Tensor, look_at_distance: Tensor | float) -> SphericalCamera:
    """The inverse of `to_extrinsics`, given how far ahead (...) the point lies that is looked at;
    elevations come back within ±90 degrees. Of a camera straight above its point the azimuth is as
    good as any, and the roll goes with it.

    Raises ValueError for a distance that is not positive.
    """
    rotation, translation = extrinsics[..., :3, :3], extrinsics[..., :3, 3]
    distance = torch.as_tensor(look_at_distance, dtype=rotation.dtype, device=rotation.device)
    if not (distance > 0).all():
        raise ValueError("look_at_distance must be positive, in metres")
    forward = rotation[..., 2, :]
    position = -(rotation.mT @ translation[..., None])[..., 0]
    azimuth = torch.atan2(-forward[..., 1], -forward[..., 0])
    elevation = torch.asin((-forward[..., 2]).clamp(-1, 1))
    level_right = torch.stack((-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)), dim=-1)
    level_down = torch.linalg.cross(forward, level_right)
    right = rotation[..., 0, :]
    roll = torch.atan2((right * level_down).sum(-1), (right * level_right).sum(-1))
    return SphericalCamera(
        torch.rad2deg(azimuth),
        torch.rad2deg(elevation),
        distance.expand(azimuth.shape),
        torch.rad2deg(roll),
        position + distance[..., None] * forward,
    )


def relative_motion(
    perturbation: Perturbation, look_at_distance: Tensor, elevation: Tensor
) -> Tensor:
    """What a movement does to camera coordinates: (B, 4, 4) from those of the home camera to those
    of the moved one.

    look_at_distance (B,) in metres; elevation (B,) of the home camera in degrees, within ±90, which
    says where the vertical lies. A movement turns the camera around its point, by the azimuth about
    the vertical and by the elevation about its level axis. Neither minds whether the camera stands
    straight above the point, or comes to: seen from there, the first turns the picture and the
    second tilts it. Raises ValueError if the movement leaves the hemisphere or passes through the
    point.
    """
    if not (perturbation.radius > 0).all():
        raise ValueError("the factor of the radius must be positive")
    if not (elevation.abs() <= MAXIMUM_ANGLE).all():
        raise ValueError(
            f"a home camera's elevation must lie within ±{MAXIMUM_ANGLE:.0f} degrees, got "
            f"{elevation.flatten().tolist()[:5]}"
        )
    for name in ("azimuth", "elevation"):
        if not (getattr(perturbation, name).abs() < MAXIMUM_ANGLE).all():
            raise ValueError(
                f"a perturbation's {name} must lie within ±{MAXIMUM_ANGLE:.0f} degrees: beyond a "
                "hemisphere nothing of the picture is left"
            )
    zero = torch.zeros_like(perturbation.azimuth)
    origin = zero[..., None].expand(*zero.shape, 3)
    home = SphericalCamera(zero, elevation, look_at_distance, zero, origin)
    moved = SphericalCamera(
        perturbation.azimuth,
        elevation + perturbation.elevation,
        look_at_distance * perturbation.radius,
        perturbation.roll,
        origin,
    )
    return to_extrinsics(moved) @ _inverse(to_extrinsics(home))


def intrinsics(field_of_view: float, width: int, height: int) -> Tensor:
    """(3, 3) of a pinhole camera with square pixels and this vertical field of view in degrees.

    Coordinates of a picture run from 0 to its width and height, pixel centres lie at halves.
    Raises ValueError for an angle outside (0, 180).
    """
    if not 0 < field_of_view < 180:
        raise ValueError(f"field_of_view must lie within (0, 180) degrees, got {field_of_view}")
    focal = height / 2 / math.tan(math.radians(field_of_view) / 2)
    return torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def sapien_pose(extrinsics: Tensor) -> Tensor:
    """Camera-to-world (..., 4, 4) for SAPIEN, whose cameras have x forward, y left and z up
    (SAPIEN documentation, "Camera")."""
    axes = extrinsics.new_tensor([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
    return _inverse(extrinsics) @ _rigid(axes, axes.new_zeros(3))


def mujoco_pose(extrinsics: Tensor) -> Tensor:
    """Camera-to-world (..., 4, 4) for MuJoCo, whose cameras have x right, y up and look along -z
    (MuJoCo documentation, XML reference, "camera")."""
    axes = extrinsics.new_tensor([[1, 0, 0], [0, -1, 0], [0, 0, -1]])
    return _inverse(extrinsics) @ _rigid(axes, axes.new_zeros(3))


def _about_z(angle: Tensor) -> Tensor:
    """Rotations (..., 3, 3) about the optical axis, from x towards y."""
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = (
        torch.stack((cosine, -sine, zero), dim=-1),
        torch.stack((sine, cosine, zero), dim=-1),
        torch.stack((zero, zero, zero + 1), dim=-1),
    )
    return torch.stack(rows, dim=-2)


def _rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    """(..., 4, 4) of a rotation (..., 3, 3) and a translation (..., 3)."""
    top = torch.cat((rotation, translation[..., None]), dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat((top, bottom), dim=-2)


def _inverse(rigid: Tensor) -> Tensor:
    """The inverse of rigid motions (..., 4, 4)."""
    rotation = rigid[..., :3, :3].mT
    return _rigid(rotation, -(rotation @ rigid[..., :3, 3:])[..., 0])
