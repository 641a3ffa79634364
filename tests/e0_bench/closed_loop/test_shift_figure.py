"""Success against the camera's shift."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from e0_bench.closed_loop.camera_shifts import moved_axes, shift_of
from e0_bench.closed_loop.shift_figure import shift_figure
from e0_bench.figure_style import COLOURS
from e0_maniskill import CameraShift


def rates(controls: list[str]) -> dict[str, Any]:
    return {
        "rates": [
            {"policy": p, "task": t, "control": c, "rate": 0.5, "low": 0.3, "high": 0.7}
            for p in ("a", "b")
            for t in ("push", "pick")
            for c in controls
        ]
    }


def test_a_control_names_its_shift() -> None:
    assert shift_of("none") == CameraShift()
    assert shift_of("camera_shift=-5,0,1,0") == CameraShift(azimuth=-5)
    assert shift_of("tell_camera_shift=true camera_shift=0,0,0.8,0") == CameraShift(radius=0.8)
    assert shift_of("blackout") is None


def test_the_figure_is_drawn_where_cameras_moved(tmp_path: Path) -> None:
    assert moved_axes(["none", "blackout", "camera_shift=5,5,1,0"]) == []
    controls = ["none", "blackout", "camera_shift=5,0,1,0", "camera_shift=0,0,1.2,0"]
    moved = rates([*controls, "camera_shift=5,5,1,0"])
    assert moved_axes(controls) == ["azimuth", "radius"]
    shift_figure(moved, tmp_path / "shift.png")
    whole = (tmp_path / "shift.png").read_bytes()
    shift_figure(rates(controls), tmp_path / "along.png")
    assert (tmp_path / "along.png").read_bytes() == whole, "shifts along two axes are left out"
    shift_figure(rates(controls[:3]), tmp_path / "azimuth.png")
    assert (tmp_path / "azimuth.png").read_bytes() != whole
    with Image.open(tmp_path / "shift.png") as picture:
        assert picture.width > 800


def test_trainings_of_a_policy_share_its_colour(tmp_path: Path) -> None:
    moved = rates(["none", "camera_shift=5,0,1,0"])
    shift_figure(moved, tmp_path / "two.png")
    shift_figure(moved, tmp_path / "one.png", {"a": "same", "b": "same"})
    second = np.round(255 * np.asarray(to_rgb(COLOURS[1])))
    drawn = []
    for name in ("two", "one"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            drawn.append((np.asarray(picture.convert("RGB")) == second).all(-1).any())
    assert drawn == [True, False]
