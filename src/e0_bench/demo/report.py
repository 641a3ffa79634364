"""The demo's report: one HTML file that holds everything it shows.

The page needs no network, no script and no second file: figures are inline SVG, pictures and clips
are data URIs.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import UndefinedError

from e0_bench.demo.figures import (
    draw_entropy,
    draw_loss,
    draw_pace,
    draw_posterior,
    draw_success,
)
from e0_bench.figure_style import page_style
from e0_bench.files import write_bytes
from e0_bench.pages import PLACEHOLDER_INK, data_uri, png_uri, render_page, svg
from e0_bench.statistics import Rate

PAPER_INK = "#1f2933"
PLAIN_WORDS = {0.95: "almost always", 0.7: "usually", 0.4: "about half the time"}
PLAIN_WORDS |= {0.1: "sometimes", 1e-9: "rarely", 0: "never"}


class InvalidReportError(ValueError):
    """The report's content is incomplete or contradicts itself; the message says where."""


@dataclass(frozen=True)
class Clip:
    """A recorded episode: `file` is an animated .webp; `blackout` means the images were black."""

    task: str
    seed: int
    success: bool
    blackout: bool
    file: Path


@dataclass(frozen=True, eq=False)
class Report:
    """What the page shows. K denoising steps, H chunk steps, D action dimensions, V codes.

    results: the content of results.json. instructions: task to instruction.
    learning_curve: rows of step, loss, lr, update_s, dataloading_s.
    round_trip: a row for each action dimension: dimension, codes, rmse, rmse_over_std, maximum.
    posterior: (K, H, D, V) probabilities of one chunk at each denoising step, None for an objective
    that has none; codebook: (D, V) ascending, in action units; posterior_image: uint8 (h, w, 3),
    the observation it belongs to.
    entropy: task to, for some episodes, the mean posterior entropy (nats) of each chunk in order;
    entropy_outcomes: task to the success of these episodes.
    """

    results: dict[str, Any]
    instructions: dict[str, str]
    learning_curve: list[dict[str, float]]
    round_trip: list[dict[str, Any]]
    posterior: np.ndarray | None
    codebook: np.ndarray
    dimension_names: list[str]
    posterior_image: np.ndarray | None
    entropy: dict[str, list[list[float]]]
    entropy_outcomes: dict[str, list[bool]]
    clips: list[Clip]
    settings: dict[str, object]
    versions: dict[str, str]


@dataclass(frozen=True)
class Task:
    """One row of results. `blind` is None where the control was not run."""

    name: str
    seeing: Rate
    blind: Rate | None
    seeds: list[int]

    @property
    def in_plain_words(self) -> str:
        return next(words for share, words in PLAIN_WORDS.items() if self.seeing.share >= share)

    @property
    def seed_range(self) -> str:
        """The seeds, as a range where they are consecutive."""
        first, last = self.seeds[0], self.seeds[-1]
        consecutive = last > first and self.seeds == list(range(first, last + 1))
        return f"{first}–{last}" if consecutive else ", ".join(map(str, self.seeds))

    @property
    def warning(self) -> str | None:
        """What the blind control says against the policy, or None."""
        if self.blind is None or self.blind.interval[1] < self.seeing.interval[0]:
            return None
        doubt = "this policy may not be using its images"
        if self.blind.interval[0] > self.seeing.interval[1]:
            return f"Blind, the policy does better than seeing: {doubt}."
        return f"The blind control's interval overlaps the seeing one: {doubt}."


def write_report(path: Path, report: Report) -> None:
    """Write the page to `path`, whole or not at all: a failure leaves an older file as it was.

    Raises InvalidReportError for content that is incomplete or contradictory, OSError where a file
    cannot be read or written.
    """
    try:
        with matplotlib.rc_context(page_style(PLACEHOLDER_INK)):
            page = _render(report)
    except (KeyError, UndefinedError) as error:
        raise InvalidReportError(f"a key is missing from the report's content: {error}") from error
    write_bytes(path, page.encode())


def success_figure(results: dict[str, Any], path: Path) -> None:
    """Write the report's figure of success rates as a PNG on white, for a README.

    Raises InvalidReportError and OSError as `write_report` does.
    """
    with matplotlib.rc_context(page_style(PAPER_INK)):
        buffer = io.BytesIO()
        draw_success(_tasks(results)).savefig(buffer, format="png", dpi=200, facecolor="white")
    write_bytes(path, buffer.getvalue())


def _require(condition: object, message: str) -> None:
    if not condition:
        raise InvalidReportError(message)


def _tasks(results: dict[str, Any]) -> list[Task]:
    """Read results.json's tasks. Raises InvalidReportError."""
    complete = results.get("tasks") and "state_only" in results
    _require(complete, "results need 'state_only' and at least one evaluated task in 'tasks'")
    return [_task(name, row, results["state_only"]) for name, row in results["tasks"].items()]


def _task(name: str, row: dict[str, Any], state_only: bool) -> Task:
    blind = None
    try:
        seeing = Rate(row["successes"], row["episodes"])
        if not state_only and row["blackout_episodes"]:
            blind = Rate(row["blackout_successes"], row["blackout_episodes"])
        seeds = list(row["seeds"])
    except KeyError as error:
        raise InvalidReportError(f"results of task {name!r} lack {error}") from error
    except ValueError as error:
        raise InvalidReportError(f"results of task {name!r}: {error}") from error
    counts = f"{len(seeds)} seeds for {seeing.episodes} episodes"
    _require(len(seeds) == seeing.episodes, f"results of task {name!r} name {counts}")
    return Task(name, seeing, blind, seeds)


def _check(report: Report) -> None:
    """Raise InvalidReportError for content that cannot be shown truthfully."""
    tasks = set(report.results["tasks"])
    _require(tasks <= set(report.instructions), f"instructions must cover all of {sorted(tasks)}")
    _require(report.learning_curve, "learning_curve is empty: expected at least one row")
    losses = [row["loss"] for row in report.learning_curve]
    _require(np.isfinite(losses).all(), "learning_curve holds a loss that is not finite")
    _check_posterior(report, report.posterior)
    outcomes = report.entropy_outcomes
    _require(set(report.entropy) == set(outcomes), "entropy and entropy_outcomes name other tasks")
    for task, episodes in report.entropy.items():
        counts = f"{len(episodes)} episodes but {len(outcomes[task])} outcomes"
        _require(len(episodes) == len(outcomes[task]), f"entropy of {task!r} has {counts}")
    for clip in report.clips:
        _require(clip.task in tasks, f"clip {clip.file} shows a task without results: {clip.task}")


def _check_posterior(report: Report, posterior: np.ndarray | None) -> None:
    if posterior is None:
        return
    shape, codebook, names = posterior.shape, report.codebook.shape, report.dimension_names
    _require(len(shape) == 4 and min(shape) > 0, f"posterior must be (K, H, D, V), got {shape}")
    _require(codebook == shape[2:], f"codebook must have shape {shape[2:]}, got {codebook}")
    _require(len(names) == shape[2], f"expected {shape[2]} dimension_names, got {names}")
    sums_to_one = np.allclose(posterior.sum(axis=-1, dtype=np.float64), 1, atol=1e-2)
    probabilities = sums_to_one and (posterior >= 0).all()
    _require(probabilities, "posterior must hold probabilities that sum to 1 (are these logits?)")
    image = report.posterior_image
    picture = image is None or (image.dtype == np.uint8 and image.shape[2:] == (3,))
    _require(picture, "posterior_image must be uint8 (h, w, 3)")


def _render(report: Report) -> str:
    tasks = _tasks(report.results)
    _check(report)
    filters = {"number": _number, "duration": _duration, "clip": _clip_uri}
    posterior, image = report.posterior, report.posterior_image
    return render_page(
        "demo/report.html.jinja",
        filters,
        report=report,
        tasks=tasks,
        success=svg(draw_success(tasks), "Success rates with 95 % intervals"),
        loss=svg(draw_loss([report.learning_curve]), "Training loss and learning rate by step"),
        pace=svg(draw_pace(report.learning_curve), "Seconds of each update by step"),
        posteriors=[
            svg(
                draw_posterior(step, report.codebook, report.dimension_names), f"Posterior {number}"
            )
            for number, step in enumerate([] if posterior is None else posterior, start=1)
        ],
        posterior_image=None if image is None else png_uri(image),
        uniform_entropy=math.log(report.codebook.shape[1]),
        entropies={
            task: svg(draw_entropy(episodes, report.entropy_outcomes[task]), f"Entropy in {task}")
            for task, episodes in report.entropy.items()
            if any(episodes)
        },
    )


def _number(value: float) -> str:
    """Three significant digits; a spread of zero makes an error's share of it undefined."""
    text = np.format_float_positional(value, precision=3, fractional=False, trim="-")
    return text if math.isfinite(value) else "undefined"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _clip_uri(clip: Clip) -> str:
    content = clip.file.read_bytes()
    _require(content[8:12] == b"WEBP", f"clip {clip.file} is not a .webp file")
    return data_uri("webp", content)
