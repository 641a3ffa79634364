"""Pictures that tell what a moved camera takes from a policy."""

from __future__ import annotations

import pytest
import torch

from e0.viewpoint import CameraGeometry, perturb_light
from scripts import load_script

gap = load_script("viewpoint_gap")


def test_relit_pictures_have_the_light_of_the_other_and_their_own_details() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = 0.5 + 0.2 * torch.rand(3, 128, 128, generator=generator)
    other = perturb_light(picture[None], 0.4, 1, generator)[0]
    relit = gap.relight(other, picture)
    assert (relit - picture).abs().mean() < 0.3 * (other - picture).abs().mean()
    torch.testing.assert_close(gap.relight(picture, picture), picture)


def test_warped_pictures_turn_about_the_point_that_is_looked_at() -> None:
    picture = torch.zeros(3, 64, 64)
    picture[:, 30:34, 30:34] = 1.0
    picture[:, 30:34, 50:54] = 0.6
    table = CameraGeometry(field_of_view=40, elevation=40, look_at_distance=0.6, table_offset=0.0)
    there, back = (gap.warp(picture, table, azimuth) for azimuth in (15.0, -15.0))
    assert there[:, 31:33, 31:33].min() > 0.8
    assert not torch.equal(there, back)
    torch.testing.assert_close(gap.warp(picture, table, 0.0), picture, rtol=0, atol=1e-4)


def test_a_comparison_without_moved_cameras_is_refused() -> None:
    with pytest.raises(ValueError, match="no policy of this comparison has viewpoint_augm"):
        gap.camera_geometry({"policies": {"none": {}}})


def test_the_mean_lies_within_its_interval() -> None:
    row = gap.mean_with_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert row["n"] == 5 and row["mean"] == 3.0
    assert 1.0 <= row["low"] < 3.0 < row["high"] <= 5.0
