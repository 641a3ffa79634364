"""Augmentation of whole batches: which pictures move, how, and which do not."""

from __future__ import annotations

import logging
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from e0.viewpoint import (
    CameraGeometry,
    Perturbation,
    PerturbationRange,
    Plane,
    ViewpointAugmentation,
    intrinsics,
    perturb_light,
    perturb_viewpoint,
)

B, SIZE = 40, 24
TABLE = CameraGeometry(field_of_view=50, elevation=40, look_at_distance=0.7, table_offset=-0.05)
BOUNDS = PerturbationRange(20, 10, 0.1, 5)


def pictures(seed: int = 0, *shape: int) -> Tensor:
    return torch.rand(*(shape or (B, 3, SIZE, SIZE)), generator=torch.Generator().manual_seed(seed))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_a_share_of_the_samples_moves_and_the_others_stay() -> None:
    augment = ViewpointAugmentation(BOUNDS, probability=0.6, cameras={"base": TABLE})
    images = {"base": pictures()}
    moved, movements = augment(images, generator=seeded())
    still = (movements["base"].azimuth == 0) & (movements["base"].radius == 1)
    assert 0.4 < (~still).float().mean() < 0.8
    same = (moved["base"] == images["base"]).flatten(1).all(-1)
    assert torch.equal(same, still)
    again, _ = augment(images, generator=seeded())
    assert torch.equal(again["base"], moved["base"])


def test_what_it_does_is_the_perturbation_it_tells() -> None:
    augment = ViewpointAugmentation(BOUNDS, probability=0.7, cameras={"base": TABLE})
    images = {"base": pictures()}
    moved, movements = augment(images, generator=seeded())
    expected = perturb_viewpoint(
        images["base"],
        intrinsics(50, SIZE, SIZE),
        movements["base"],
        look_at_distance=0.7,
        elevation=40,
        plane=Plane(offset=-0.05),
    ).images
    torch.testing.assert_close(moved["base"], expected, rtol=0, atol=1e-4)


def test_cameras_move_by_themselves_and_skipped_ones_do_not() -> None:
    images = {"base": pictures(0), "side": pictures(1, B, 3, 30, 20), "wrist": pictures(2)}
    augment = ViewpointAugmentation(BOUNDS, 1.0, {"base": TABLE, "side": TABLE}, skip=("wrist",))
    moved, movements = augment(images, generator=seeded())
    assert torch.equal(moved["wrist"], images["wrist"])
    assert torch.equal(movements["wrist"].azimuth, Perturbation.none(B).azimuth)
    assert not torch.equal(movements["base"].azimuth, movements["side"].azimuth)
    assert moved["side"].shape == images["side"].shape


def test_all_frames_of_a_sample_move_alike() -> None:
    frame = pictures()
    stack = frame[:, None].expand(-1, 3, -1, -1, -1)
    augment = ViewpointAugmentation(BOUNDS, 1.0, {"base": TABLE})
    moved, _ = augment({"base": stack}, generator=seeded())
    alone, _ = augment({"base": frame}, generator=seeded())
    assert moved["base"].shape == stack.shape
    for index in range(3):
        torch.testing.assert_close(moved["base"][:, index], alone["base"])


def test_depth_is_used_where_there_is_any() -> None:
    depth = 0.5 + pictures(3, B, SIZE, SIZE)
    augment = ViewpointAugmentation(BOUNDS, 1.0, {"base": TABLE, "side": TABLE})
    images = {"base": pictures(), "side": pictures()}
    with_depth, _ = augment(images, {"base": depth}, generator=seeded())
    without, _ = augment(images, generator=seeded())
    assert not torch.equal(with_depth["base"], without["base"])
    assert torch.equal(with_depth["side"], without["side"])


def test_an_unknown_camera_is_assumed_and_said_so_once(caplog: pytest.LogCaptureFixture) -> None:
    augment = ViewpointAugmentation(BOUNDS, 1.0)
    with caplog.at_level(logging.WARNING):
        augment({"base": pictures()})
        augment({"base": pictures()})
    assert len([r for r in caplog.records if "field of view of 60" in r.getMessage()]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probability": 1.5}, "probability must lie"),
        ({"fill": "zeros"}, "known: reflect"),
        ({"light": -0.1}, "light must be a share of brightness"),
        ({"light": float("nan")}, "light must be a share of brightness"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewpointAugmentation(BOUNDS, **arguments)


@pytest.mark.parametrize("elevation", [82.0, 88.0, 90.0])
@pytest.mark.parametrize("table_offset", [None, -0.05])
def test_a_camera_that_looks_down_trains(elevation: float, table_offset: float | None) -> None:
    camera = CameraGeometry(50, elevation, 0.7, table_offset)
    augment = ViewpointAugmentation(BOUNDS, 1.0, {"base": camera})
    for _ in range(10):
        moved, _ = augment({"base": pictures()})
        assert moved["base"].isfinite().all() and not torch.equal(moved["base"], pictures())


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        ({"elevation": 91.0}, "elevation must lie within"),
        ({"elevation": math.nan}, "elevation must lie within"),
        ({"field_of_view": 180.0}, "field_of_view"),
        ({"look_at_distance": 0.0}, "look_at_distance must be positive"),
        ({"table_offset": 0.0}, "sees it edge-on"),  # of elevation 0
        ({"table_offset": math.nan, "elevation": 40.0}, "cannot carry the picture"),
    ],
)
def test_impossible_cameras_are_refused_when_settings_are_read(camera: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CameraGeometry(**camera)


def test_movements_that_some_batch_would_fail_on_are_refused_when_settings_are_read() -> None:
    low = CameraGeometry(elevation=8, table_offset=-0.05)
    ViewpointAugmentation(PerturbationRange(elevation=5), cameras={"base": low})
    with pytest.raises(ValueError, match=r"camera base cannot be moved this far: .*from behind"):
        ViewpointAugmentation(PerturbationRange(elevation=15), cameras={"base": low})
    with pytest.raises(ValueError, match=r"camera \(any other\) cannot be moved this far"):
        ViewpointAugmentation(PerturbationRange(89, 89))


@pytest.mark.parametrize("setting", [{"skip": ("hand",)}, {"cameras": {"hand": TABLE}}])
def test_cameras_that_are_not_there_are_named(setting: dict) -> None:
    with pytest.raises(ValueError, match=r"names the cameras \['hand'\], the batch has \['base'\]"):
        ViewpointAugmentation(BOUNDS, **setting)({"base": pictures()})


def test_light_changes_moved_pictures_smoothly_and_alike_for_a_sample() -> None:
    dark, bright = (
        ViewpointAugmentation(BOUNDS, 0.6, {"base": TABLE}, light=light) for light in (0.0, 0.4)
    )
    grey = {"base": torch.full((B, 2, 3, SIZE, SIZE), 0.5)}
    plain, movements = dark(grey, generator=seeded())
    lit, same_movements = bright(grey, generator=seeded())
    assert torch.equal(movements["base"].azimuth, same_movements["base"].azimuth)
    gain = lit["base"] / plain["base"]
    still = movements["base"].azimuth == 0
    assert (gain[still] == 1).all()
    assert torch.equal(gain[:, 0], gain[:, 1])
    assert 1 / 1.4 - 1e-5 <= gain.min() < 0.8 and 1.25 < gain.max() <= 1.4 + 1e-5
    assert gain.diff(dim=-1).abs().max() < 4 * 0.7 / SIZE


def test_light_is_drawn_anew_for_every_sample_and_stays_within_the_range_of_pictures() -> None:
    images = pictures()
    torch.testing.assert_close(perturb_light(images, 0.0, B), images)
    lit = perturb_light(images, 0.5, B, seeded())
    assert lit.min() >= 0 and lit.max() == 1
    drawn = torch.rand(B, 1, 4, 4, generator=seeded()) * 2 - 1
    field = F.interpolate(1.5**drawn, SIZE, mode="bilinear", align_corners=True)
    torch.testing.assert_close(lit, (images * field).clamp(max=1))
    gain = (lit / images)[:, 0, 0, 0]
    assert gain.unique().numel() > B // 2
    assert torch.equal(lit, perturb_light(images, 0.5, B, seeded()))
    with pytest.raises(ValueError, match="40 pictures cannot be shared among 3 samples"):
        perturb_light(images, 0.5, 3)
