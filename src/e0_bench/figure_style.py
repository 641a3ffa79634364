"""How figures look, drawn without pyplot: no display, no global state."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

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


def save_figure(figure: Figure, path: Path, dpi: int = 160) -> None:
    """Write a figure in the format that the file's name ends in, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix.removeprefix("."), dpi=dpi)
    write_bytes(path, content.getvalue())
