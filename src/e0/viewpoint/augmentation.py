"""Training pictures as if their cameras had been bumped; works on the batches of any policy.

Shapes: B samples, T frames of a sample, pictures of height x width pixels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from e0.viewpoint.geometry import (
    Perturbation,
    PerturbationRange,
    intrinsics,
    relative_motion,
)
from e0.viewpoint.light import check_strength, perturb_light
from e0.viewpoint.warp import FILLS, Plane, perturb_viewpoint, plane_in_view

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CameraGeometry:
    """What is known of a fixed camera.

    field_of_view: vertical, in degrees. elevation: degrees above the horizontal, 90 is straight
    down. look_at_distance: metres to the point in the middle of its picture. table_offset: metres
    from that point to the table, negative below it; None takes the plane that faces the camera.
    Raises ValueError for what no camera can be, and a table that this one sees edge-on.
    """

    field_of_view: float = 60.0
    elevation: float = 0.0
    look_at_distance: float = 1.0
    table_offset: float | None = None

    def __post_init__(self) -> None:
        intrinsics(self.field_of_view, 1, 1)
        if not 0 < self.look_at_distance < math.inf:
            raise ValueError(
                f"look_at_distance must be positive, in metres, got {self.look_at_distance}"
            )
        self.require_possible(Perturbation.none(1))

    def require_possible(self, movements: Perturbation) -> None:
        """Raise ValueError unless this camera's pictures can be moved by all of these."""
        distance = torch.full_like(movements.radius, self.look_at_distance)
        elevation = torch.full_like(distance, self.elevation)
        motion = relative_motion(movements, distance, elevation)
        plane_in_view(motion, distance, elevation, self.plane)

    @property
    def plane(self) -> Plane | None:
        return None if self.table_offset is None else Plane(offset=self.table_offset)


@dataclass(frozen=True)
class ViewpointAugmentation:
    """Moves the cameras of a share of the samples (`probability`) within `bounds`.

    cameras: geometry by camera name; one that is not named is assumed to have the default geometry,
    which is logged once. skip: names of cameras that are left alone, such as those on a wrist.
    light: strength of `perturb_light`, which moved pictures go through; 0 is off. Raises ValueError
    for a probability outside [0, 1], an unknown fill, a negative light, and bounds within which a
    camera's pictures cannot all be moved.
    """

    bounds: PerturbationRange = field(default_factory=PerturbationRange)
    probability: float = 0.8
    cameras: Mapping[str, CameraGeometry] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    fill: str = "reflect"
    light: float = 0.0
    _told: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must lie within [0, 1], got {self.probability}")
        if self.fill not in FILLS:
            raise ValueError(f"unknown fill {self.fill!r}; known: {', '.join(FILLS)}")
        check_strength(self.light)
        for name, geometry in {"(any other)": CameraGeometry(), **self.cameras}.items():
            try:
                geometry.require_possible(self.bounds.corners())
            except ValueError as error:
                raise ValueError(f"camera {name} cannot be moved this far: {error}") from error

    def __call__(
        self,
        images: Mapping[str, Tensor],
        depths: Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Perturbation]]:
        """Pictures of moved cameras, and how each camera of each sample moved.

        images: camera name -> float (B, 3, height, width) or (B, T, 3, height, width); all frames
        of a sample move alike. depths: camera name -> (B, height, width) or (B, T, height, width)
        in metres, where there is any. Raises ValueError if `cameras` or `skip` names a camera that
        is not among the images.
        """
        unknown = (set(self.cameras) | set(self.skip)) - set(images)
        if unknown:
            raise ValueError(
                f"viewpoint augmentation names the cameras {sorted(unknown)}, the batch has "
                f"{sorted(images)}"
            )
        moved, movements = {}, {}
        for name, pictures in images.items():
            count, device = len(pictures), pictures.device
            movements[name] = Perturbation.none(count, device)
            moved[name] = pictures
            if name in self.skip:
                continue
            chosen = torch.rand(count, generator=generator, device=device) < self.probability
            drawn = self.bounds.draw(count, generator, device)
            movements[name] = drawn.where(chosen)
            depth = (depths or {}).get(name)
            moved[name] = self._move(name, pictures, depth, movements[name], chosen, generator)
        return moved, movements

    def _move(
        self,
        name: str,
        pictures: Tensor,
        depth: Tensor | None,
        movement: Perturbation,
        chosen: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        """The pictures with those of the samples `chosen` (B,) moved."""
        rows, others = chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]
        if len(rows) == 0:
            return pictures
        geometry = self._geometry(name)
        some = pictures.index_select(0, rows).flatten(0, -4)
        frames = len(some) // len(rows)
        height, width = some.shape[-2:]
        images, _ = perturb_viewpoint(
            some,
            intrinsics(geometry.field_of_view, width, height).to(some.device),
            Perturbation(*(part[rows].repeat_interleave(frames) for part in movement)),
            None if depth is None else depth[rows].flatten(0, -3),
            geometry.look_at_distance,
            elevation=geometry.elevation,
            plane=geometry.plane,
            fill=self.fill,
        )
        if self.light > 0:
            images = perturb_light(images, self.light, len(rows), generator)
        # Every picture is written once; copying all and then replacing some takes longer.
        moved = torch.empty_like(pictures)
        moved.index_copy_(0, rows, images.view(len(rows), *pictures.shape[1:]))
        return moved.index_copy_(0, others, pictures.index_select(0, others))

    def _geometry(self, name: str) -> CameraGeometry:
        if name not in self.cameras and name not in self._told:
            self._told.add(name)
            logger.warning(
                "nothing is known of camera %r: its viewpoint is augmented as if it had a field of "
                "view of 60 degrees, stood level and saw a plane that faces it",
                name,
            )
        return self.cameras.get(name, CameraGeometry())
