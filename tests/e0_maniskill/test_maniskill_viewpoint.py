"""Cameras that really move in the simulator, against the geometry of `e0.viewpoint`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from e0.viewpoint import (
    Perturbation,
    SphericalCamera,
    intrinsics,
    perturb_viewpoint,
    sapien_pose,
    to_extrinsics,
)
from e0_maniskill import Camera, CameraShift, ManiSkillEnv

CAMERA = Camera(eye=(0.5, 0.1, 0.45), target=(0.03, 0.0, 0.05), field_of_view=0.7)
SIZE = 128
SHIFTS = [
    CameraShift(12, 0, 1, 0),
    CameraShift(0, -10, 1, 0),
    CameraShift(0, 0, 1.2, 0),
    CameraShift(0, 0, 1, 20),
    CameraShift(-10, 8, 0.9, -8),
]


def spherical(camera: Camera) -> SphericalCamera:
    """The camera as `e0.viewpoint` describes it, about its target."""
    offset = np.subtract(camera.eye, camera.target)
    level = math.hypot(offset[0], offset[1])
    numbers = (
        math.degrees(math.atan2(offset[1], offset[0])),
        math.degrees(math.atan2(offset[2], level)),
        float(np.linalg.norm(offset)),
        camera.roll,
    )
    return SphericalCamera(*(torch.tensor(x) for x in numbers), torch.tensor(camera.target))


@pytest.mark.parametrize("shift", [CameraShift(), *SHIFTS])
def test_simulator_and_geometry_agree_on_where_a_camera_is(shift: CameraShift) -> None:
    pytest.importorskip("mani_skill")
    from e0_maniskill.sensors import camera_pose

    moved = CAMERA.moved(shift)
    theirs = torch.from_numpy(camera_pose(moved).to_transformation_matrix())
    torch.testing.assert_close(
        sapien_pose(to_extrinsics(spherical(moved))), theirs.float(), rtol=0, atol=1e-5
    )


@pytest.fixture(scope="module")
def home(rendering: None) -> Iterator[ManiSkillEnv]:
    env = ManiSkillEnv("PickCube-v1", depth=True, image_size=2 * SIZE)
    yield env
    env.close()


def observe(env: ManiSkillEnv, camera: Camera) -> tuple[Tensor, Tensor]:
    """Picture (3, H, W) in [0, 1] and depth (H, W) in metres of the same state. The renderer takes
    one sample a pixel, which makes noise of the table's grain; four of them are averaged."""
    observation, _ = env.reset(seed=4, options={"cameras": {"base_camera": camera}})
    picture = torch.from_numpy(observation["pixels"]["base_camera"]).permute(2, 0, 1) / 255
    depth = torch.from_numpy(observation["depth"]["base_camera"].astype(np.float32)) / 1000
    return F.avg_pool2d(picture, 2), depth[1::2, 1::2].contiguous()


@pytest.mark.parametrize("shift", SHIFTS)
def test_depth_moves_pictures_as_the_simulator_does(home: ManiSkillEnv, shift: CameraShift) -> None:
    camera = home._cameras["base_camera"]
    where = spherical(camera)
    picture, depth = observe(home, camera)
    truth, _ = observe(home, camera.moved(shift))
    perturbation = Perturbation(
        *(torch.tensor([x]) for x in (shift.azimuth, shift.elevation, shift.radius, shift.roll))
    )
    lens = intrinsics(math.degrees(camera.field_of_view), SIZE, SIZE)
    moved = perturb_viewpoint(
        picture[None], lens, perturbation, depth[None], where.radius, elevation=where.elevation
    )
    valid = moved.valid[0]

    def noise_ratio(one: Tensor) -> float:
        return -10 * math.log10((one - truth).square().mean(0)[valid].mean().item())

    assert valid.float().mean() > 0.6
    assert noise_ratio(moved.images[0]) > 25
    assert noise_ratio(moved.images[0]) > noise_ratio(picture) + 3


def test_depth_is_observed_and_measured_along_the_axis(home: ManiSkillEnv) -> None:
    observation, _ = home.reset(seed=4)
    assert home.observation_space.contains(observation)
    depth = observation["depth"]["base_camera"].astype(float) / 1000
    camera = home._cameras["base_camera"]
    # Just in front of the middle, where the target lies 5 cm above the table.
    assert depth[SIZE, SIZE] == pytest.approx(math.dist(camera.eye, camera.target), abs=0.09)
    assert depth.min() > 0.2


def test_a_shifted_environment_sees_what_a_moved_camera_sees(
    home: ManiSkillEnv,
) -> None:
    shift = SHIFTS[-1]
    shifted = ManiSkillEnv("PickCube-v1", camera_shift=shift, image_size=2 * SIZE)
    try:
        observation, _ = shifted.reset(seed=4)
    finally:
        shifted.close()
    moved = home._cameras["base_camera"].moved(shift)
    expected, _ = home.reset(seed=4, options={"cameras": {"base_camera": moved}})
    pictures = [seen["pixels"]["base_camera"] for seen in (observation, expected)]
    np.testing.assert_array_equal(*pictures)
