"""The doctor's page: findings, pictures and histograms in one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from e0_bench.doctor.checks_episodes import idle_frames
from e0_bench.doctor.checks_tokens import TokenError
from e0_bench.doctor.doctor import Diagnosis, summary
from e0_bench.doctor.findings import number
from e0_bench.doctor.pictures import Sample
from e0_bench.doctor.reading import Column
from e0_bench.figure_style import GRID, page_style
from e0_bench.files import write_text
from e0_bench.pages import PLACEHOLDER_INK, png_uri, render_page, svg

DATA, RANGE = "#3b82c4", "#d9703b"
SHOWN_EPISODES = 6
THUMBNAIL = 224  # pixels
BINS = 60


@dataclass(frozen=True)
class Picture:
    """An episode's first frame as a data URI, and whether a finding is about it."""

    episode: int
    uri: str
    suspicious: bool


@dataclass(frozen=True)
class Histogram:
    """One action dimension: its figure, and what its tokens are."""

    name: str
    figure: Markup
    tokens: str


def write_page(path: Path, diagnosis: Diagnosis) -> None:
    """Write the page, whole or not at all. Raises OSError where it cannot be written."""
    action = diagnosis.recording.columns.get("action")
    with matplotlib.rc_context(page_style(PLACEHOLDER_INK)):
        histograms = _histograms(action, diagnosis.tokens) if action is not None else []
    page = render_page(
        "doctor/page.html.jinja",
        {},
        recording=diagnosis.recording,
        summary=summary(diagnosis),
        healthy=diagnosis.healthy,
        findings=diagnosis.findings,
        cameras={sample.camera: _pictures(sample, diagnosis) for sample in diagnosis.samples},
        histograms=histograms,
        idle=_idle_share(action),
    )
    write_text(path, page)


def _pictures(sample: Sample, diagnosis: Diagnosis) -> list[Picture]:
    """First frames of some episodes: those that a finding of this camera names come first."""
    named = {
        episode
        for finding in diagnosis.findings
        if finding.feature == sample.camera
        for episode in finding.episodes
    } & sample.frames.keys()
    others = sorted(sample.frames.keys() - named)
    spread = np.unique(np.linspace(0, len(others) - 1, SHOWN_EPISODES).astype(int))
    ordinary = [others[i] for i in spread] if others else []
    chosen = [*sorted(named)[:SHOWN_EPISODES], *ordinary[:SHOWN_EPISODES]]
    return [
        Picture(episode, png_uri(_thumbnail(sample.frames[episode][0])), episode in named)
        for episode in chosen
    ]


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(image)


def _histograms(action: Column, tokens: TokenError | None) -> list[Histogram]:
    return [
        Histogram(
            name,
            svg(_draw_histogram(action.values[:, d], tokens, d), f"Histogram of {name}"),
            _token_text(tokens, d),
        )
        for d, name in enumerate(action.dimensions)
    ]


def _draw_histogram(values: np.ndarray, tokens: TokenError | None, d: int) -> Figure:
    """How often each value occurs, on a logarithmic scale so that rare ones show, between lines at
    the outermost codes."""
    figure = Figure(figsize=(2.9, 1.5), layout="constrained")
    axes = figure.add_subplot()
    finite = values[np.isfinite(values)]
    if len(finite):
        axes.hist(finite, bins=BINS, color=DATA)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.yaxis.set_minor_formatter("")
    if tokens is not None:
        for edge in (tokens.low[d], tokens.high[d]):
            axes.axvline(edge, color=RANGE, linewidth=1.2, linestyle="--")
    axes.tick_params(labelsize=7, length=2, color=GRID)
    axes.locator_params(axis="x", nbins=5)
    axes.set_ylabel("frames", fontsize=7)
    return figure


def _token_text(tokens: TokenError | None, d: int) -> str:
    if tokens is None:
        return "no codebook fits"
    return (
        f"{tokens.codes[d]} codes from {number(tokens.low[d])} to {number(tokens.high[d])}; rms "
        f"error {number(tokens.rms[d])}, largest gap {number(tokens.gap[d])}"
    )


def _idle_share(action: Column | None) -> float:
    return float(idle_frames([action]).mean()) if action is not None else 0.0
