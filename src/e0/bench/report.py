"""The demo's report: one HTML file that holds everything it shows.

The page needs no network, no script and no second file: figures are inline SVG, pictures and clips
are data URIs. Ink in the figures takes the page's own text colour, in light and in dark mode.
"""

from __future__ import annotations

import base64
import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from e0.bench.statistics import Rate

SEEING, BLIND, FAILURE = "#3b82c4", "#8b95a1", "#d9703b"
PLACEHOLDER_INK = "#010203"  # becomes the page's text colour
PAPER_INK = "#1f2933"
POSTERIOR_ROWS = 48  # as many as a small picture can show
TELLING_DIMENSIONS = ("x", "y", "z", "gripper")
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
        with matplotlib.rc_context(_style(PLACEHOLDER_INK)):
            page = _render(report)
    except (KeyError, UndefinedError) as error:
        raise InvalidReportError(f"a key is missing from the report's content: {error}") from error
    _replace(path, page.encode())


def success_figure(results: dict[str, Any], path: Path) -> None:
    """Write the report's figure of success rates as a PNG on white, for a README.

    Raises InvalidReportError and OSError as `write_report` does.
    """
    with matplotlib.rc_context(_style(PAPER_INK)):
        buffer = io.BytesIO()
        _draw_success(_tasks(results)).savefig(buffer, format="png", dpi=200, facecolor="white")
    _replace(path, buffer.getvalue())


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    environment = Environment(
        loader=PackageLoader("e0.bench", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"number": _number, "duration": _duration, "clip": _clip_uri}
    posterior, image = report.posterior, report.posterior_image
    return environment.get_template("report.html.jinja").render(
        report=report,
        tasks=tasks,
        success=_svg(_draw_success(tasks), "Success rates with 95 % intervals"),
        loss=_svg(_draw_loss(report.learning_curve), "Training loss and learning rate by step"),
        pace=_svg(_draw_pace(report.learning_curve), "Seconds of each update by step"),
        posteriors=[
            _svg(_draw_posterior(report, step), f"Posterior {number}")
            for number, step in enumerate([] if posterior is None else posterior, start=1)
        ],
        posterior_image=None if image is None else _png_uri(image),
        uniform_entropy=math.log(report.codebook.shape[1]),
        entropies={
            task: _svg(_draw_entropy(episodes, report.entropy_outcomes[task]), f"Entropy in {task}")
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
    return _data_uri("webp", content)


def _png_uri(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return _data_uri("png", buffer.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def _svg(figure: Figure, label: str) -> Markup:
    """The figure as an inline element that scales with the page and takes its text colour."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    head = re.compile(r'.*?<svg [^>]*viewBox="([^"]*)"[^>]*>', re.DOTALL)
    opening = f'<svg role="img" aria-label="{escape(label)}" viewBox='
    text = head.sub(lambda match: f'{opening}"{match[1]}">', buffer.getvalue(), count=1)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # matplotlib gives every figure the same ids
    return Markup(text.replace(PLACEHOLDER_INK, "currentColor"))


# Figures: drawn without pyplot, so that no display and no global state is involved.


def _style(ink: str) -> dict[Any, Any]:
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    return dict.fromkeys(inked, ink) | {
        "font.size": 9,
        "legend.fontsize": 8,
        "image.aspect": "auto",
        "image.interpolation": "none",
        "image.origin": "lower",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": BLIND,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "svg.hashsalt": "e0",
        "text.parse_math": False,
    }


def _draw_success(tasks: list[Task]) -> Figure:
    figure = Figure(figsize=(5.2, 0.9 + 0.6 * len(tasks)), layout="constrained")
    axes = figure.add_subplot()
    seeing: dict[float, Rate] = {place: task.seeing for place, task in enumerate(tasks)}
    blind = {place + 0.4: task.blind for place, task in enumerate(tasks) if task.blind}
    _draw_bars(axes, seeing, "policy", SEEING)
    if blind:
        _draw_bars(axes, blind, "blind control (black images)", BLIND)
    middles = [place + 0.2 * (place + 0.4 in blind) for place in seeing]
    axes.set_yticks(middles, [task.name for task in tasks])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="success rate in %, with 95 % interval")
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _draw_bars(axes: Axes, rates: dict[float, Rate], label: str, colour: str) -> None:
    """A horizontal bar with its interval at each place of the vertical axis."""
    places, ink = list(rates), matplotlib.rcParams["text.color"]
    shares = np.array([100 * rate.share for rate in rates.values()])
    bounds = np.array([rate.interval for rate in rates.values()])
    axes.barh(places, shares, 0.36, color=colour, label=label)
    margins = np.abs(100 * bounds.T - shares)
    axes.errorbar(shares, places, xerr=margins, fmt="none", capsize=3, lw=1, ecolor=ink)
    for place, rate in rates.items():
        axes.text(102, place, f"{rate.successes}/{rate.episodes}", va="center", fontsize=8)


def _draw_loss(curve: list[dict[str, float]]) -> Figure:
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _plot(loss, curve, "loss", SEEING)
    _plot(rate, curve, "lr", BLIND)
    loss.set_ylabel("loss")
    rate.set(xlabel="training step", ylabel="learning\nrate", ylim=(0, None))
    return figure


def _draw_pace(curve: list[dict[str, float]]) -> Figure:
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    axes = figure.add_subplot()
    _plot(axes, curve, "update_s", SEEING, label="update of the network")
    _plot(axes, curve, "dataloading_s", FAILURE, label="waiting for data")
    axes.set(xlabel="training step", ylabel="seconds", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _plot(
    axes: Axes, curve: list[dict[str, float]], key: str, colour: str, label: str = ""
) -> None:
    steps, values = [row["step"] for row in curve], [row[key] for row in curve]
    # A line through a single row would be invisible.
    axes.plot(steps, values, "o-" if len(curve) == 1 else "-", color=colour, lw=1.4, label=label)
    axes.grid()


def _draw_posterior(report: Report, posterior: np.ndarray) -> Figure:
    """Probability (H, D, V) of each action value at each step of the chunk."""
    names = [name for name in TELLING_DIMENSIONS if name in report.dimension_names]
    names = names or report.dimension_names[:4]
    figure = Figure(figsize=(2.1, 0.35 + 0.85 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        d = report.dimension_names.index(name)
        _draw_codes(axes, posterior[:, d], report.codebook[d])
        axes.set_ylabel(name, fontsize=8)
    panels[-1].set_xlabel("step of the chunk", fontsize=8)
    figure.align_ylabels()
    return figure


def _draw_codes(axes: Axes, posterior: np.ndarray, codebook: np.ndarray) -> None:
    """Probabilities (H, V) as a picture whose rows are groups of adjacent codes."""
    codes, first = np.unique(codebook, return_index=True)  # padding repeats the last code
    mass = np.add.reduceat(posterior, first, axis=1)
    # Among 2048 rows a sharp peak would vanish on screen.
    groups = np.linspace(0, len(codes), min(len(codes), POSTERIOR_ROWS) + 1).astype(int)[:-1]
    mass = np.add.reduceat(mass, groups, axis=1)
    shades = LinearSegmentedColormap.from_list("", [to_rgba(SEEING, 0), to_rgba(SEEING)])
    axes.imshow(mass.T, shades, PowerNorm(0.5, 0, 1), extent=(0.5, len(mass) + 0.5, 0, len(codes)))
    shown = np.unique(np.linspace(0, len(codes) - 1, 3 if len(codes) > 2 else 2).astype(int))
    digits = 2 - math.floor(math.log10(np.ptp(codes) or 1))
    axes.set_yticks(shown + 0.5, [f"{codes[i].round(digits) + 0:g}" for i in shown])
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(labelsize=7, length=2)
    axes.spines[["top", "right"]].set_visible(True)


def _draw_entropy(episodes: list[list[float]], outcomes: list[bool]) -> Figure:
    figure = Figure(figsize=(4.6, 2.8), layout="constrained")
    axes = figure.add_subplot()
    for entropy, success in zip(episodes, outcomes, strict=True):
        # Failures are dashed as well: colour alone does not reach every reader.
        line, label, colour = ("o-", "success", SEEING) if success else ("o--", "failure", FAILURE)
        chunks = range(1, len(entropy) + 1)
        axes.plot(chunks, entropy, line, ms=2.5, lw=1.1, alpha=0.75, color=colour, label=label)
    axes.set(xlabel="chunk", ylabel="mean entropy (nats)", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    one_each = {line.get_label(): line for line in axes.lines}
    figure.legend(handles=list(one_each.values()), loc="outside upper center", ncols=2)
    return figure
