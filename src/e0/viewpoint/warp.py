"""Pictures as a moved camera would have seen them, from the home camera's pictures.

With depth every pixel is moved for itself; without, the scene is taken for a plane, and the picture
is moved by that plane's homography (Hartley and Zisserman, "Multiple view geometry", 13.1). Which
plane matters: a table's is far better than one that faces the camera where a table fills the
picture (`benchmarks/viewpoint.py`).

Shapes: B pictures of height x width pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from e0.viewpoint.geometry import (
    Perturbation,
    SphericalCamera,
    relative_motion,
    to_extrinsics,
)

FILLS = ("reflect", "constant", "noise")
PADDING = {"reflect": "reflection", "constant": "zeros", "noise": "zeros"}
DEPTH_TOLERANCE = 0.02
"""A pixel shows the nearest surface if its depth is not behind it by more than this share."""
PIXEL_TOLERANCE = 0.75
"""How far from its place a found pixel may land, in pixels."""
REFINEMENTS = 3
REACH = 0.9
"""A point reaches pixels whose middle is not farther away, so that no surface gets cracks when it
comes up to 1.8 times nearer, and edges do not grow by a whole pixel."""
NEAREST_PLANE = 0.02
"""Share of the look-at distance that a plane must stay away from the camera."""


class Plane(NamedTuple):
    """What stands for the scene where there is no depth.

    normal: in axes of which z points up and x, level, towards the camera: (0, 0, 1) is a table.
    offset: metres from the point that is looked at to the plane, along the normal; a table that
    lies 5 cm below that point has -0.05.
    """

    normal: tuple[float, float, float] = (0.0, 0.0, 1.0)
    offset: float = 0.0


class MovedImages(NamedTuple):
    """images (B, 3, height, width), and valid (B, height, width): False where the home camera had
    not seen what the moved one would."""

    images: Tensor
    valid: Tensor


@torch.no_grad()
def perturb_viewpoint(
    images: Tensor,
    intrinsics: Tensor,
    perturbation: Perturbation,
    depth: Tensor | None = None,
    look_at_distance: Tensor | float | None = None,
    *,
    elevation: Tensor | float = 0.0,
    plane: Plane | None = None,
    fill: str = "reflect",
    generator: torch.Generator | None = None,
) -> MovedImages:
    """Move each picture's camera on its sphere; see `Perturbation`.

    images: (B, 3, height, width) float. intrinsics: (3, 3) or (B, 3, 3), as `intrinsics` makes
    them. depth: (B, height, width) metres along the optical axis, 0 or infinite where unknown.
    look_at_distance: metres to the point that stays in place, one or (B,); with depth it may be
    left out and is then the depth in the middle of the picture. elevation: degrees of the home
    camera above the horizontal, one or (B,). plane: of the scene without depth; None is the plane
    through the point looked at that faces the camera. fill: what was never seen is a reflection of
    the picture, black (`constant`), or `noise`.

    Runs on the images' device without waiting for it, apart from checks of small tensors. Raises
    ValueError for shapes that do not match, intrinsics that cannot be inverted, distances that are
    not positive, an unknown fill, and movements beyond a hemisphere.
    """
    batch = _check(images, intrinsics, depth, fill)
    camera = intrinsics.to(images).expand(batch, 3, 3)
    distance = _distance(look_at_distance, depth, batch).to(images)
    angle = torch.as_tensor(elevation, dtype=images.dtype, device=images.device).expand(batch)
    moves = Perturbation(*(part.to(images) for part in perturbation))
    motion = relative_motion(moves, distance, angle)
    places = _plane_places(images, camera, motion, distance, angle, plane)
    moved = _look_up(images, places, PADDING[fill])
    valid = _inside(places)
    if depth is not None:
        places, valid = _depth_places(depth.to(images), camera, motion)
        seen = _look_up(images, places, "border")
        # Holes have no picture of their own; the plane's is the best guess.
        moved = torch.where(valid[:, None], seen, moved)
    if fill == "noise":
        noise = torch.rand(images.shape, generator=generator, device=images.device)
        moved = torch.where(valid[:, None], moved, noise.to(images.dtype))
    if fill == "constant":
        moved = moved * valid[:, None]
    return MovedImages(moved, valid)


def _check(images: Tensor, intrinsics: Tensor, depth: Tensor | None, fill: str) -> int:
    """The number of pictures; see `perturb_viewpoint` for what is refused."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"images must be float (B, 3, height, width), got {images.dtype} {tuple(images.shape)}"
        )
    if fill not in FILLS:
        raise ValueError(f"unknown fill {fill!r}; known: {', '.join(FILLS)}")
    if intrinsics.shape not in (torch.Size((3, 3)), torch.Size((len(images), 3, 3))):
        raise ValueError(
            f"intrinsics must be (3, 3) or ({len(images)}, 3, 3), got {tuple(intrinsics.shape)}"
        )
    if not (torch.linalg.det(intrinsics.double()).abs() > 1e-9).all():
        raise ValueError("intrinsics cannot be inverted: their focal lengths must not be zero")
    if depth is not None and depth.shape != (len(images), *images.shape[-2:]):
        raise ValueError(
            f"depth must have the images' size {(len(images), *images.shape[-2:])}, got "
            f"{tuple(depth.shape)}"
        )
    return len(images)


def _distance(look_at_distance: Tensor | float | None, depth: Tensor | None, batch: int) -> Tensor:
    """Metres to the points that stay in place: (B,)."""
    if look_at_distance is None:
        if depth is None:
            raise ValueError("give look_at_distance in metres, or depth to find it in")
        height, width = depth.shape[-2:]
        look_at_distance = depth[:, height // 2, width // 2]
    distance = torch.as_tensor(look_at_distance, dtype=torch.float32)
    if not ((distance > 0) & distance.isfinite()).all():
        raise ValueError(f"look_at_distance must be positive, in metres, got {distance.tolist()}")
    return distance.expand(batch)


def _pixel_centres(images: Tensor) -> Tensor:
    """Homogeneous coordinates (3, height, width) of the middle of each pixel."""
    height, width = images.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=images.device, dtype=images.dtype) + 0.5,
        torch.arange(width, device=images.device, dtype=images.dtype) + 0.5,
        indexing="ij",
    )
    return torch.stack((x, y, torch.ones_like(x)))


def _plane_places(
    images: Tensor,
    camera: Tensor,
    motion: Tensor,
    distance: Tensor,
    elevation: Tensor,
    plane: Plane | None,
) -> Tensor:
    """Where in the home picture each pixel of the moved one is looked up, if all that is seen lies
    in one plane: (B, 2, height, width), see `_look_up`."""
    normals = _camera_normals(images, elevation, plane)
    # n · X = reach in camera coordinates, where the point that is looked at is (0, 0, distance).
    reach = normals[:, 2] * distance + (0.0 if plane is None else plane.offset)
    if not (reach.abs() > NEAREST_PLANE * distance).all():
        raise ValueError(
            f"{plane} passes through a camera of elevation {elevation.tolist()[0]:.0f}, which sees "
            "it edge-on, so it cannot carry the picture; give the camera's elevation, or leave "
            "`plane` out"
        )
    bend = motion[:, :3, 3:] @ (normals / reach[:, None])[:, None]
    homography = camera @ (motion[:, :3, :3] + bend) @ torch.linalg.inv_ex(camera).inverse
    back = torch.linalg.inv_ex(homography).inverse
    height, width = images.shape[-2:]
    to_places = images.new_tensor([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]]) @ back
    x = torch.arange(width, device=images.device, dtype=images.dtype) + 0.5
    y = torch.arange(height, device=images.device, dtype=images.dtype) + 0.5
    # A row and a column are added up: 40 times faster than a matrix for every pixel.
    row = to_places[:, :, 0, None] * x + to_places[:, :, 2, None]
    column = to_places[:, :, 1, None] * y
    divisor = row[:, 2:, None, :] + column[:, 2:, :, None]
    places = row[:, :2, None, :] + column[:, :2, :, None]
    # What lies behind the camera, with a divisor below zero, lands far outside.
    return places.div_(divisor.clamp_(min=1e-6))


def _camera_normals(images: Tensor, elevation: Tensor, plane: Plane | None) -> Tensor:
    """Unit normals (B, 3) of the plane in camera coordinates."""
    if plane is None:
        return images.new_tensor([0.0, 0.0, 1.0]).expand(len(elevation), 3)
    zero = torch.zeros_like(elevation)
    home = SphericalCamera(zero, elevation, zero + 1, zero, zero[..., None].expand(-1, 3))
    return to_extrinsics(home)[:, :3, :3] @ F.normalize(images.new_tensor(plane.normal), dim=0)


def _normalize(homogeneous: Tensor) -> Tensor:
    """Homogeneous pixel coordinates (B, 3, height, width) -> places (B, 2, height, width)."""
    height, width = homogeneous.shape[-2:]
    size = homogeneous.new_tensor([width, height])[:, None, None]
    return homogeneous[:, :2] / homogeneous[:, 2:].clamp(min=1e-6) * 2 / size - 1


def _inside(places: Tensor) -> Tensor:
    """Which places (B, 2, height, width) lie in the picture: (B, height, width). Overwrites the
    places: new memory would cost more than the computation."""
    x, y = places.abs_().unbind(1)
    return torch.maximum(x, y, out=x) <= 1


def _look_up(images: Tensor, places: Tensor, padding: str, mode: str = "bilinear") -> Tensor:
    """Colours at places (B, 2, height, width): x and y, -1 and 1 are the picture's edges."""
    grid = places.to(images.dtype).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, mode, padding_mode=padding, align_corners=False)


def _depth_places(depth: Tensor, camera: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Where in the home picture each pixel of the moved one is looked up, by depth: places
    (B, 2, height, width), and which pixels (B, height, width) the home camera has seen.

    First every home pixel is thrown into the moved picture, where the nearest wins; that says about
    where to look. Then the place is refined until it lands in the pixel that asked for it.
    """
    home = depth[:, None]
    known = home.isfinite() & (home > 0)
    home = home.where(known, 0.0)
    pixels = _pixel_centres(home).expand(len(depth), -1, -1, -1)
    to_rays = torch.linalg.inv_ex(camera).inverse
    # Homogeneous pixel times depth is a point; `turn` and `shift` take it to the moved picture.
    turn = camera @ motion[:, :3, :3] @ to_rays
    shift = (camera @ motion[:, :3, 3:])[..., None]

    def move(places: Tensor, at_depth: Tensor) -> Tensor:
        """Home pixels (B, 3, height, width) at depths (B, 1, ...) -> (x z, y z, z) of the moved."""
        return torch.einsum("bij,bjhw->bihw", turn, places * at_depth) + shift

    nearest = _nearest_depth(move(pixels, home), known[:, 0])
    hole = nearest.isinf()
    nearest = nearest.masked_fill(hole, 1.0)
    back = torch.linalg.inv_ex(turn).inverse
    points = torch.einsum("bij,bjhw->bihw", back, pixels * nearest[:, None] - shift)
    places = torch.cat((points[:, :2] / points[:, 2:].clamp(min=1e-6), pixels[:, 2:]), dim=1)
    for _ in range(REFINEMENTS):
        landed = move(places, _look_up(home, _normalize(places), "border"))
        miss = pixels[:, :2] - landed[:, :2] / landed[:, 2:].clamp(min=1e-6)
        places = torch.cat((places[:, :2] + miss, places[:, 2:]), dim=1)
    found = _normalize(places)
    there = _look_up(home, found, "zeros", mode="nearest")
    landed = move(places, there)
    miss = (pixels[:, :2] - landed[:, :2] / landed[:, 2:].clamp(min=1e-6)).abs().amax(1)
    in_front = landed[:, 2] <= nearest * (1 + DEPTH_TOLERANCE)
    seen = _inside(found.clone()) & ~hole & (there[:, 0] > 0)
    return found, seen & in_front & (miss < PIXEL_TOLERANCE)


def _nearest_depth(moved: Tensor, known: Tensor) -> Tensor:
    """The nearest depth (B, height, width) that falls into each pixel of the moved picture, of
    points (x z, y z, z) that each reach the four pixels around them; infinite where none falls."""
    batch, _, height, width = moved.shape
    depth = moved[:, 2]
    centre = moved[:, :2] / depth[:, None].clamp(min=1e-6) - 0.5
    corner = centre.floor()
    nearest = depth.new_full((batch, height * width), torch.inf)
    for right in (0, 1):
        for down in (0, 1):
            x, y = corner[:, 0] + right, corner[:, 1] + down
            near = ((x - centre[:, 0]).abs() < REACH) & ((y - centre[:, 1]).abs() < REACH)
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            lands = known & (depth > 1e-6) & near & inside
            place = torch.where(lands, y * width + x, 0).long()
            value = torch.where(lands, depth, torch.inf)
            nearest.scatter_reduce_(1, place.flatten(1), value.flatten(1), "amin")
    return nearest.view(batch, height, width)
