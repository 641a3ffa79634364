"""Geometry of moved cameras against scenes whose pictures are known exactly."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from e0.viewpoint import (
    Perturbation,
    PerturbationRange,
    Plane,
    SphericalCamera,
    from_extrinsics,
    intrinsics,
    mujoco_pose,
    perturb_viewpoint,
    relative_motion,
    sapien_pose,
    to_extrinsics,
)

SIZE, VIEW, DISTANCE, ELEVATION = 96, 50.0, 0.7, 40.0
K = intrinsics(VIEW, SIZE, SIZE)
Scene = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def moves(*rows: tuple[float, float, float, float]) -> Perturbation:
    return Perturbation(*torch.tensor(rows).T)


def camera_of(move: tuple[float, float, float, float], elevation: float) -> Tensor:
    """Extrinsics (4, 4) of the home camera (azimuth 0) after a movement."""
    azimuth, rise, factor, roll = (torch.tensor(float(x)) for x in move)
    return to_extrinsics(
        SphericalCamera(azimuth, elevation + rise, DISTANCE * factor, roll, torch.zeros(3))
    )


def texture(u: Tensor, v: Tensor) -> Tensor:
    """Smooth colours (3, ...) of places in metres."""
    waves = [torch.sin(11 * u + 3), torch.sin(13 * v + 7 * u), torch.cos(17 * v - 5 * u + 1)]
    return torch.stack(waves) * 0.4 + 0.5


def rays(extrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """The camera's place (3,), and directions (3, size, size) with length 1 along the optical axis,
    both in the world."""
    y, x = torch.meshgrid(*[torch.arange(SIZE) + 0.5] * 2, indexing="ij")
    camera = torch.einsum("ij,jhw->ihw", K.inverse(), torch.stack((x, y, torch.ones_like(x))))
    rotation = extrinsics[:3, :3]
    return -rotation.T @ extrinsics[:3, 3], torch.einsum("ij,jhw->ihw", rotation.T, camera)


def plane_scene(normal: Tensor, offset: float = 0.0) -> Scene:
    """A textured plane n · X = offset: picture (3, H, W) and depth (H, W), infinite beyond it."""
    normal = normal / normal.norm()
    first = torch.linalg.cross(normal, torch.tensor([0.3, 1.0, 0.2]))
    second = torch.linalg.cross(normal, first / first.norm())

    def render(place: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        depth = (offset - normal @ place) / torch.einsum("i,ihw->hw", normal, direction)
        depth = torch.where(depth > 0, depth, torch.inf)
        points = place[:, None, None] + depth * direction
        u = torch.einsum("i,ihw->hw", first / first.norm(), points)
        v = torch.einsum("i,ihw->hw", second, points)
        return texture(u, v).nan_to_num(0.0), depth

    return render


def sphere_scene(radius: float) -> Scene:
    """A textured ball around the point that is looked at, over a table 0.1 m below."""
    table = plane_scene(torch.tensor([0.0, 0.0, 1.0]), -0.1)

    def render(place: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        picture, depth = table(place, direction)
        a = direction.square().sum(0)
        b = torch.einsum("i,ihw->hw", place, direction)
        root = b.square() - a * (place @ place - radius**2)
        near = (-b - root.clamp(min=0).sqrt()) / a
        hit = (root > 0) & (near > 0)
        points = place[:, None, None] + near * direction
        ball = texture(points[0] * 2 + 1, points[1] * 2 + points[2])
        return torch.where(hit, ball, picture), torch.where(hit, near, depth)

    return render


def render(scene: Scene, move: tuple[float, float, float, float], elevation: float = ELEVATION):
    return scene(*rays(camera_of(move, elevation)))


def noise_ratio(one: Tensor, other: Tensor, valid: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over valid pixels."""
    error = (one - other).square().mean(0)[valid].mean()
    return -10 * math.log10(error.item())


HOME = (0.0, 0.0, 1.0, 0.0)
MOVES = [
    (12.0, 0.0, 1.0, 0.0),
    (0.0, -9.0, 1.0, 0.0),
    (0.0, 0.0, 0.85, 0.0),
    (0.0, 0.0, 1.2, 0.0),
    (0.0, 0.0, 1.0, 15.0),
    (-10.0, 7.0, 1.1, -6.0),
]

# Cameras on spheres


@given(
    st.floats(-179, 179),
    st.floats(-85, 85),
    st.floats(0.05, 5),
    st.floats(-170, 170),
    st.tuples(*[st.floats(-2, 2)] * 3),
)
@settings(max_examples=200, deadline=None)
def test_extrinsics_and_back(
    azimuth: float, elevation: float, radius: float, roll: float, at
) -> None:
    camera = SphericalCamera(
        *(torch.tensor(x, dtype=torch.float64) for x in (azimuth, elevation, radius, roll)),
        torch.tensor(at, dtype=torch.float64),
    )
    extrinsics = to_extrinsics(camera)
    rotation = extrinsics[:3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(rotation) > 0
    seen = rotation @ camera.look_at + extrinsics[:3, 3]
    torch.testing.assert_close(seen, torch.tensor([0.0, 0.0, radius], dtype=torch.float64))
    for back, given_ in zip(from_extrinsics(extrinsics, radius), camera, strict=True):
        torch.testing.assert_close(back, given_, rtol=1e-6, atol=1e-6)


def test_camera_stands_where_it_should() -> None:
    """Azimuth 90 and elevation 0: on the world's y axis, looking along -y, x to the left."""
    zero = torch.tensor(0.0)
    camera = SphericalCamera(zero + 90, zero, zero + 2, zero, torch.zeros(3))
    extrinsics = to_extrinsics(camera)
    torch.testing.assert_close(
        extrinsics[:3, :3],
        torch.tensor([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]),
        rtol=0,
        atol=1e-6,
    )
    place = -extrinsics[:3, :3].T @ extrinsics[:3, 3]
    torch.testing.assert_close(place, torch.tensor([0.0, 2.0, 0.0]), rtol=0, atol=1e-6)


def test_roll_turns_the_camera_clockwise() -> None:
    """So what is above the middle moves to the left of the picture."""
    zero = torch.tensor(0.0)
    rolled = to_extrinsics(SphericalCamera(zero, zero, zero + 1, zero + 90, torch.zeros(3)))
    above = rolled[:3, :3] @ torch.tensor([0.0, 0.0, 0.1]) + rolled[:3, 3]
    torch.testing.assert_close(above, torch.tensor([-0.1, 0.0, 1.0]), rtol=0, atol=1e-6)


def test_axes_of_other_simulators() -> None:
    camera = SphericalCamera(*(torch.tensor(x) for x in (30.0, 20.0, 1.5, 10.0)), torch.zeros(3))
    extrinsics = to_extrinsics(camera)
    place = -extrinsics[:3, :3].T @ extrinsics[:3, 3]
    target = torch.cat((camera.look_at, torch.ones(1)))
    for pose, forward in ((sapien_pose, [1.5, 0, 0]), (mujoco_pose, [0, 0, -1.5])):
        world = pose(extrinsics)
        torch.testing.assert_close(world[:3, 3], place)
        seen = (world.inverse() @ target)[:3]
        torch.testing.assert_close(seen, torch.tensor(forward).float(), rtol=0, atol=1e-5)
        assert torch.linalg.det(world[:3, :3]) > 0
    right = extrinsics[0, :3]
    torch.testing.assert_close(sapien_pose(extrinsics)[:3, 1], -right)
    torch.testing.assert_close(mujoco_pose(extrinsics)[:3, 0], right)


def test_relative_motion_is_that_between_the_two_cameras() -> None:
    move = (-10.0, 7.0, 1.1, -6.0)
    found = relative_motion(moves(move), torch.tensor([DISTANCE]), torch.tensor([ELEVATION]))
    expected = camera_of(move, ELEVATION) @ camera_of(HOME, ELEVATION).inverse()
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("elevation", [82.0, 88.0, 90.0, -90.0])
@pytest.mark.parametrize("move", [*MOVES, (14.0, 9.0, 1.05, 3.0), (-14.0, -9.0, 0.95, -3.0)])
def test_straight_down_is_an_elevation_like_any_other(
    elevation: float, move: tuple[float, float, float, float]
) -> None:
    """Turned by rotations of the world, written down here by themselves: by the elevation about
    the home camera's level axis, by the azimuth about the vertical, by the roll about the line of
    sight."""
    azimuth, rise, factor, roll = move
    home = camera_of(HOME, elevation).double()
    motion = relative_motion(
        moves(move), torch.tensor([DISTANCE]), torch.tensor([elevation])
    ).double()
    z, y = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 0.0])
    turn = turned(z, azimuth) @ turned(y, -rise)
    moved = motion[0] @ home
    place = -(moved[:3, :3].T @ moved[:3, 3])
    start = -(home[:3, :3].T @ home[:3, 3])
    torch.testing.assert_close(place, factor * turn @ start, rtol=1e-4, atol=1e-5)
    expected = turned(z, -roll) @ home[:3, :3] @ turn.T
    torch.testing.assert_close(moved[:3, :3], expected, rtol=1e-4, atol=1e-5)


def turned(axis: Tensor, degrees: float) -> Tensor:
    """The rotation (3, 3) about an axis, by the matrix exponential."""
    x, y, z = axis.double().tolist()
    generator = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.matrix_exp(math.radians(degrees) * generator)


def test_nothing_jumps_on_the_way_over_the_top() -> None:
    elevations = torch.linspace(85, 95, 41)
    still = torch.zeros(41)
    motion = relative_motion(
        Perturbation(still + 15, elevations - 85, still + 1, still), still + DISTANCE, still + 85
    )
    assert (motion[1:] - motion[:-1]).abs().max() < 0.01


@pytest.mark.parametrize("azimuth", [-120.0, 0.0, 35.0])
def test_a_camera_that_looks_straight_down_comes_back_from_its_extrinsics(azimuth: float) -> None:
    degrees = (torch.tensor(x, dtype=torch.float64) for x in (azimuth, 90.0, 0.7, 12.0))
    extrinsics = to_extrinsics(SphericalCamera(*degrees, torch.zeros(3, dtype=torch.float64)))
    again = to_extrinsics(from_extrinsics(extrinsics, 0.7))
    torch.testing.assert_close(again, extrinsics, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": torch.tensor(0.0)}, "radius.*positive"),
        ({"elevation": torch.tensor(181.0)}, "elevation must lie"),
    ],
)
def test_impossible_cameras_are_refused(change: dict[str, Tensor], message: str) -> None:
    zero = torch.tensor(0.0)
    camera = SphericalCamera(zero, zero, zero + 1, zero, torch.zeros(3))._replace(**change)
    with pytest.raises(ValueError, match=message):
        to_extrinsics(camera)


# Perturbations


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_perturbations_keep_their_bounds_and_are_reproducible(distribution: str) -> None:
    bounds = PerturbationRange(20, 10, 0.25, 5, distribution)
    drawn = bounds.draw(4000, torch.Generator().manual_seed(1))
    for part, bound in zip(drawn, (20, 10, None, 5), strict=True):
        size = part.log().abs() if bound is None else part.abs()
        limit = math.log(1.25) if bound is None else bound
        assert 0.9 * limit < size.max() <= limit * (1 + 1e-6)
        centre = part.log().mean() if bound is None else part.mean()
        assert centre.abs() < 0.05 * limit
        spread = (part.log() if bound is None else part).std() / limit
        assert spread == pytest.approx(0.577 if distribution == "uniform" else 0.44, abs=0.02)
    again = bounds.draw(4000, torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"azimuth": 90.0}, "beyond a hemisphere"),
        ({"elevation": -1.0}, "elevation must lie"),
        ({"radius": -0.1}, "radius must not be negative"),
        ({"distribution": "cauchy"}, "known: uniform, normal"),
    ],
)
def test_impossible_ranges_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerturbationRange(**arguments)


def test_embedding_is_zero_only_where_nothing_is_known() -> None:
    still = Perturbation.none(2)
    assert still.embedding().tolist() == [[0, 0, 0, 0, 1]] * 2
    drawn = PerturbationRange(20, 10, 0.25, 5).draw(2, torch.Generator().manual_seed(0))
    kept = drawn.where(torch.tensor([True, False]))
    assert torch.equal(kept.embedding()[1], still.embedding()[1])
    assert torch.equal(kept.embedding()[0], drawn.embedding()[0])
    assert (drawn.embedding()[:, :4].abs() < 1).all()


# Pictures


@pytest.mark.parametrize("fill", ["reflect", "constant", "noise"])
@pytest.mark.parametrize("depth", [False, True])
def test_no_movement_changes_nothing(fill: str, depth: bool) -> None:
    picture, far = render(sphere_scene(0.1), HOME)
    moved = perturb_viewpoint(
        picture[None], K, moves(HOME), far[None] if depth else None, DISTANCE, fill=fill
    )
    assert moved.valid.float().mean() > 0.99
    torch.testing.assert_close(
        moved.images[0, :, moved.valid[0]], picture[:, moved.valid[0]], rtol=0, atol=2e-4
    )


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("plane", [None, Plane(), Plane((0.5, 0.2, 1.0)), Plane(offset=-0.08)])
def test_a_plane_is_moved_exactly(move, plane: Plane | None) -> None:
    facing = camera_of(HOME, ELEVATION)[2, :3]
    normal = facing if plane is None else torch.tensor(plane.normal)
    scene = plane_scene(normal, 0.0 if plane is None else plane.offset)
    picture, _ = render(scene, HOME)
    truth, _ = render(scene, move)
    moved = perturb_viewpoint(
        picture[None],
        K,
        moves(move),
        look_at_distance=DISTANCE,
        elevation=ELEVATION,
        plane=plane,
    )
    assert moved.valid[0].float().mean() > 0.5
    assert noise_ratio(moved.images[0], truth, moved.valid[0]) > 40
    assert noise_ratio(picture, truth, moved.valid[0]) < 30, "the movement is visible"


@pytest.mark.parametrize("move", MOVES)
def test_depth_moves_any_scene(move) -> None:
    """A ball over a table: where the home camera saw it, the picture is that of the moved one."""
    scene = sphere_scene(0.12)
    picture, depth = render(scene, HOME)
    truth, true_depth = render(scene, move)
    moved = perturb_viewpoint(
        picture[None], K, moves(move), depth[None], DISTANCE, elevation=ELEVATION
    )
    valid = moved.valid[0]
    assert valid.float().mean() > 0.5
    assert noise_ratio(moved.images[0], truth, valid) > 32
    flat = perturb_viewpoint(
        picture[None], K, moves(move), look_at_distance=DISTANCE, elevation=ELEVATION
    )
    gain = noise_ratio(moved.images[0], truth, valid) - noise_ratio(flat.images[0], truth, valid)
    assert gain > (-0.01 if move[:3] == HOME[:3] else 3), "a turn of the camera needs no depth"
    # What the ball hid from home is a hole, not the ball a second time.
    place, direction = rays(camera_of(move, ELEVATION))
    points = place[:, None, None] + true_depth * direction
    home_place, _ = rays(camera_of(HOME, ELEVATION))
    to_home = home_place[:, None, None] - points
    along = -torch.einsum("ihw,ihw->hw", points, to_home) / to_home.square().sum(0)
    nearest = (points + along.clamp(0, 1) * to_home).norm(dim=0)
    hidden = (nearest < 0.11) & (points[2] < -0.09)
    assert hidden.sum() == 0 or valid[hidden].float().mean() < 0.1


@pytest.mark.parametrize("move", MOVES)
def test_the_point_looked_at_stays_in_the_middle(move) -> None:
    y, x = torch.meshgrid(*[torch.arange(SIZE) + 0.5 - SIZE / 2] * 2, indexing="ij")
    dot = torch.exp(-(x**2 + y**2) / 18).expand(1, 3, -1, -1)
    moved = perturb_viewpoint(
        dot, K, moves(move), look_at_distance=DISTANCE, elevation=ELEVATION, fill="constant"
    ).images[0, 0]
    centre = torch.stack(((moved * x).sum(), (moved * y).sum())) / moved.sum()
    assert centre.abs().max() < 0.5


def test_a_movement_and_its_inverse_give_the_picture_back() -> None:
    picture, _ = render(plane_scene(camera_of(HOME, ELEVATION)[2, :3]), HOME)
    there = perturb_viewpoint(
        picture[None],
        K,
        moves((8, 5, 1.1, 0)),
        look_at_distance=DISTANCE,
        elevation=ELEVATION,
        plane=Plane(),
    )
    back = perturb_viewpoint(
        there.images,
        K,
        moves((-8, -5, 1 / 1.1, 0)),
        look_at_distance=DISTANCE * 1.1,
        elevation=ELEVATION + 5,
        plane=Plane(),
    )
    assert noise_ratio(back.images[0], picture, back.valid[0] & there.valid[0]) > 38


def test_every_picture_moves_by_itself() -> None:
    picture, depth = render(sphere_scene(0.1), HOME)
    every, far = picture.expand(len(MOVES), -1, -1, -1), depth.expand(len(MOVES), -1, -1)
    for given_depth in (None, far):
        together = perturb_viewpoint(every, K, moves(*MOVES), given_depth, DISTANCE)
        for index, move in enumerate(MOVES):
            one = None if given_depth is None else far[:1]
            alone = perturb_viewpoint(every[:1], K, moves(move), one, DISTANCE)
            torch.testing.assert_close(together.images[index], alone.images[0])
            assert torch.equal(together.valid[index], alone.valid[0])


def test_fills_of_what_was_never_seen() -> None:
    picture = torch.full((1, 3, SIZE, SIZE), 0.6)
    move = moves((0.0, 0.0, 1.5, 0.0))

    def filled(fill: str) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        moved = perturb_viewpoint(
            picture, K, move, look_at_distance=DISTANCE, fill=fill, generator=generator
        )
        outside = ~moved.valid[0]
        assert 0.3 < outside.float().mean() < 0.7
        torch.testing.assert_close(
            moved.images[0, :, moved.valid[0]].mean(), torch.tensor(0.6), rtol=0, atol=0.01
        )
        return moved.images[0, :, outside]

    torch.testing.assert_close(filled("reflect"), torch.full_like(filled("reflect"), 0.6))
    assert filled("constant").abs().max() == 0
    assert filled("noise").std() == pytest.approx(0.29, abs=0.02)
    assert torch.equal(filled("noise"), filled("noise"))


def test_the_distance_may_come_from_depth() -> None:
    picture, depth = render(sphere_scene(0.1), HOME)
    found = perturb_viewpoint(picture[None], K, moves(MOVES[0]), depth[None])
    given_ = perturb_viewpoint(
        picture[None], K, moves(MOVES[0]), depth[None], depth[SIZE // 2, SIZE // 2].item()
    )
    torch.testing.assert_close(found.images, given_.images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"intrinsics": torch.zeros(3, 3)}, "cannot be inverted"),
        ({"intrinsics": torch.eye(4)}, "must be .3, 3."),
        ({"look_at_distance": 0.0}, "look_at_distance must be positive"),
        ({"look_at_distance": math.inf}, "look_at_distance must be positive"),
        ({"look_at_distance": None}, "give look_at_distance in metres, or depth"),
        ({"depth": torch.ones(1, 10, SIZE)}, "depth must have the images' size"),
        ({"images": torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)}, "must be float"),
        ({"images": torch.zeros(3, SIZE, SIZE)}, "must be float"),
        ({"fill": "mirror"}, "known: reflect, constant, noise"),
        ({"perturbation": moves((90.0, 0.0, 1.0, 0.0))}, "beyond a hemisphere"),
        ({"perturbation": moves((0.0, 95.0, 1.0, 0.0))}, "elevation must lie"),
        ({"elevation": 91.0}, "home camera's elevation must lie"),
        ({"perturbation": moves((0.0, 0.0, 0.0, 0.0))}, "factor of the radius"),
        ({"plane": Plane(), "elevation": 0.0}, "sees it edge-on"),
        (  # the moved camera would see the table from below
            {
                "plane": Plane(offset=-0.05),
                "elevation": 5.0,
                "perturbation": moves((0.0, -15.0, 1.0, 0.0)),
            },
            "from behind",
        ),
    ],
)
def test_impossible_movements_are_refused(change: dict, message: str) -> None:
    arguments = {
        "images": torch.zeros(1, 3, SIZE, SIZE),
        "intrinsics": K,
        "perturbation": moves(MOVES[0]),
        "look_at_distance": DISTANCE,
        "elevation": ELEVATION,
    }
    with pytest.raises(ValueError, match=message):
        perturb_viewpoint(**(arguments | change))


def test_a_picture_needs_a_field_of_view() -> None:
    with pytest.raises(ValueError, match="field_of_view"):
        intrinsics(180, SIZE, SIZE)
