"""How figures look, drawn without pyplot: no display, no global state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e0_bench.files import write_bytes

# Okabe and Ito's colours, told apart by colour-blind readers (https://jfly.uni-koeln.de/color).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, FAINT, GRID = "#1f2933", "#d5dae0", "#8b95a1"
STYLE: dict[Any, Any] = dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
) | {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "text.parse_math": False,
}


def page_style(ink: str) -> dict[Any, Any]:
    """matplotlib's settings for a page's figures, whose text and axes are of this colour."""
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return dict.fromkeys(inked, ink) | {
        "font.size": 9,
        "legend.fontsize": 8,
        "image.aspect": "auto",
        "image.interpolation": "none",
        "image.origin": "lower",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": GRID,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "svg.hashsalt": "e0",
        "text.parse_math": False,
    }


def group_by_task(axes: Axes, tasks: Sequence[str], size: int) -> None:
    """Name groups of `size` rows after tasks, from the top, with an empty row and a line between
    them: row r of task i is at y = i (size + 1) + r."""
    group = size + 1
    axes.set_yticks([group * i + (size - 1) / 2 for i in range(len(tasks))], tasks)
    for i in range(1, len(tasks)):
        axes.axhline(group * i - 1, color=FAINT, lw=0.8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(group * len(tasks) - 1.3, -0.7)


def save_figure(figure: Figure, path: Path, dpi: int = 160) -> None:
    """Write a figure in the format that the file's name ends in, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), dpi=dpi)
    write_bytes(path, content.getvalue())
