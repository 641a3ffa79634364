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
REFINEMENTS = 2
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
    not positive, an unknown fill, and movements beyond a hemisphere or through the plane.
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


def _at_pixels(matrix: Tensor, height: int, width: int) -> Tensor:
    """matrix (B, 3, 3) times the homogeneous place (u, v, 1) of the middle of each pixel: (B, 3,
    height, width)."""
    u, v = (_middles(size, matrix) for size in (width, height))
    # A row and a column are added up: 40 times faster than a matrix for every pixel.
    row = matrix[:, :, 0, None] * u + matrix[:, :, 2, None]
    column = matrix[:, :, 1, None] * v
    return row[:, :, None, :] + column[:, :, :, None]


def _middles(size: int, like: Tensor) -> Tensor:
    """Places of the middles of the pixels along a side."""
    return (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) * (2 / size) - 1


def _lens(camera: Tensor, height: int, width: int) -> Tensor:
    """Matrices (B, 3, 3) from camera coordinates to homogeneous places: -1 and 1 are the picture's
    edges."""
    return camera.new_tensor([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]]) @ camera


def _divided(homogeneous: Tensor) -> Tensor:
    """Homogeneous places (B, 3, height, width) -> places (B, 2, height, width). Overwrites them;
    what lies behind the camera lands far outside."""
    return homogeneous[:, :2].div_(homogeneous[:, 2:].clamp_(min=1e-6))


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
    normals, reach = plane_in_view(motion, distance, elevation, plane)
    bend = motion[:, :3, 3:] @ (normals / reach[:, None])[:, None]
    height, width = images.shape[-2:]
    lens = _lens(camera, height, width)
    homography = lens @ (motion[:, :3, :3] + bend) @ torch.linalg.inv_ex(lens).inverse
    return _divided(_at_pixels(torch.linalg.inv_ex(homography).inverse, height, width))


def plane_in_view(
    motion: Tensor, distance: Tensor, elevation: Tensor, plane: Plane | None
) -> tuple[Tensor, Tensor]:
    """Unit normals (B, 3) of the plane in the home cameras' coordinates, and reaches (B,) so that
    normal · X = reach on the plane; see `perturb_viewpoint`.

    Raises ValueError if the plane passes through a camera, home or moved, or a camera is moved
    through the plane: it cannot carry the picture then.
    """
    normals = _camera_normals(motion, elevation, plane)
    # n · X = reach in camera coordinates, where the point that is looked at is (0, 0, distance).
    reach = normals[:, 2] * distance + (0.0 if plane is None else plane.offset)
    place = -(motion[:, :3, :3].mT @ motion[:, :3, 3:])[..., 0]  # of the moved camera
    moved = (reach - (normals * place).sum(-1)) * reach.sign()
    if not (torch.minimum(reach.abs(), moved) > NEAREST_PLANE * distance).all():
        raise ValueError(
            f"{plane or 'the plane that faces the camera'} passes through or beside a camera of "
            f"elevation {elevation.tolist()[0]:.0f}, at home or moved, which sees it edge-on or "
            "from behind, so it cannot carry the picture; give the camera's elevation, smaller "
            "movements, or leave `plane` (table_offset) out"
        )
    return normals, reach


def _camera_normals(like: Tensor, elevation: Tensor, plane: Plane | None) -> Tensor:
    """Unit normals (B, 3) of the plane in camera coordinates."""
    if plane is None:
        return like.new_tensor([0.0, 0.0, 1.0]).expand(len(elevation), 3)
    zero = torch.zeros_like(elevation)
    home = SphericalCamera(zero, elevation, zero + 1, zero, zero[..., None].expand(-1, 3))
    return to_extrinsics(home)[:, :3, :3] @ F.normalize(like.new_tensor(plane.normal), dim=0)


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
    height, width = depth.shape[-2:]
    known = depth.isfinite() & (depth > 0)
    home = depth.where(known, 0.0)[:, None]
    lens = _lens(camera, height, width)
    # A place (u, v) at depth z is the point z (u, v, 1), which moves to turn @ z (u, v, 1) + shift.
    turn = lens @ motion[:, :3, :3] @ torch.linalg.inv_ex(lens).inverse
    shift = (lens @ motion[:, :3, 3:])[..., None]
    wanted = torch.stack(
        torch.meshgrid(_middles(width, depth), _middles(height, depth), indexing="xy")
    )

    def move(places: Tensor, at_depth: Tensor) -> Tensor:
        """Home places (u, v, 1) at depths (B, 1, ...) -> (u z, v z, z) of the moved."""
        rays = (turn @ places.flatten(2)).view_as(places)
        return torch.addcmul(shift, rays, at_depth)

    nearest = _nearest_depth(torch.addcmul(shift, _at_pixels(turn, height, width), home), known)
    hole = nearest.isinf()
    nearest = nearest.masked_fill(hole, 1.0)
    back = torch.linalg.inv_ex(turn).inverse
    start = (back @ shift[..., 0])[..., None]
    homogeneous = _at_pixels(back, height, width).mul_(nearest[:, None]).sub_(start)
    places = _divided(homogeneous)  # its first two, so that both are refined at once
    homogeneous[:, 2] = 1.0
    for _ in range(REFINEMENTS):
        landed = _divided(move(homogeneous, _look_up(home, places, "border")))
        places += wanted - landed
    there = _look_up(home, places, "zeros", mode="nearest")
    landed = move(homogeneous, there)
    in_front = landed[:, 2] <= nearest * (1 + DEPTH_TOLERANCE)
    u, v = (wanted - _divided(landed)).abs_().unbind(1)
    near = (u < PIXEL_TOLERANCE * 2 / width) & (v < PIXEL_TOLERANCE * 2 / height)
    seen = _inside(places.clone()) & ~hole & (there[:, 0] > 0)
    return places, seen & in_front & near


def _nearest_depth(moved: Tensor, known: Tensor) -> Tensor:
    """The nearest depth (B, height, width) that falls into each pixel of the moved picture, of
    points (u z, v z, z) that each reach the four pixels around them; infinite where none falls."""
    batch, _, height, width = moved.shape
    depth = moved[:, 2]
    depth = depth.where(known & (depth > 1e-6), torch.inf)
    x, right, left = _pixels_around((moved[:, 0] / depth + 1) * (width / 2) - 0.5, width)
    y, below, above = _pixels_around((moved[:, 1] / depth + 1) * (height / 2) - 0.5, height)
    # A rim of one pixel catches what falls beside the picture.
    rim = depth.new_full((batch, (height + 2) * (width + 2)), torch.inf)
    corner = (y + 1).mul_(width + 2).add_(x + 1).long().flatten(1)
    for reaches_y, down in ((above, 0), (below, width + 2)):
        for reaches_x, across in ((left, 0), (right, 1)):
            value = depth.where(reaches_x & reaches_y, torch.inf).flatten(1)
            rim[:, down + across :].scatter_reduce_(1, corner, value, "amin")
    return rim.view(batch, height + 2, width + 2)[:, 1:-1, 1:-1]


def _pixels_around(centre: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of coordinates along one side: the pixel before, at most one beside the picture, and whether
    a point there reaches the pixel behind, and the pixel before."""
    before = centre.floor().clamp_(-1, size - 1)
    past = centre - before
    return before, past > 1 - REACH, past < REACH
