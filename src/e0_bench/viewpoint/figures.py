"""Strips of pictures: what a moved camera sees, and what the warps make of the home picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from e0_bench.figure_style import STYLE, save_figure
from e0_bench.viewpoint.truth import HOME, METHODS, SHIFTS, views, warped
from e0_maniskill import CameraShift

SHOWN = [
    CameraShift(azimuth=15),
    CameraShift(elevation=-10),
    CameraShift(radius=0.8),
    CameraShift(-10, 8, 0.9, -8),
]


def draw_strips(task: str, seed: int, steps: int, path: Path) -> None:
    """One row for each of a few shifts: the truth, every method's picture, and the truth where the
    home camera had seen it."""
    seen_from = views(task, seed, steps)
    with matplotlib.rc_context(STYLE):
        titles = ["moved camera (truth)", *METHODS, "seen from home"]
        figure = Figure(figsize=(1.5 * len(titles), 1.6 * len(SHOWN)), layout="constrained")
        grid = figure.subplots(len(SHOWN), len(titles), squeeze=False)
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title, fontsize=8)
        for row, shift in zip(grid, SHOWN, strict=True):
            truth = seen_from[str(SHIFTS.index(shift))].picture
            pictures, seen = warped(seen_from[HOME], shift)
            every = [truth, *pictures.values(), truth * seen]
            for axes, picture in zip(row, every, strict=True):
                _show(axes, picture)
            row[0].set_ylabel(_name(shift), fontsize=8)
        save_figure(figure, path, dpi=110)


def _show(axes: Axes, picture: Tensor) -> None:
    axes.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy())
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def _name(shift: CameraShift) -> str:
    return f"{shift.azimuth:+g}°, {shift.elevation:+g}°,\n×{shift.radius:g}, {shift.roll:+g}°"
