"""Write the tables and figures of docs/evidence.md anew, from the results in benchmarks/results.

    python benchmarks/evidence.py

What a results file is follows from its keys: of the token lab, of `e0 compare` (comparison.json),
of `e0 bench` (summary.json) or of the viewpoint benchmarks; others are left alone.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from e0_bench.closed_loop.camera_shifts import moved_axes
from e0_bench.closed_loop.figures import calibration_figure, success_figure
from e0_bench.closed_loop.shift_figure import shift_figure
from e0_bench.closed_loop.summary import markdown, renew_intervals
from e0_bench.comparison.comparison import comparison_markdown
from e0_bench.comparison.late_chunks import late_chunks_figure
from e0_bench.comparison.trainings_figure import trainings_figure
from e0_bench.figure_style import COLOURS, STYLE, save_figure
from e0_bench.files import write_text
from e0_bench.token_lab.report import draw_figure, markdown_tables
from e0_bench.viewpoint.tables import gap_table, viewpoint_tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs" / "evidence"
VOCABULARY_LABEL = re.compile(r"v(\d+)")


def main() -> None:
    for path, results in read_results().items():
        text = tables(results)
        if text is not None:
            write_text(DOCS / f"{path.stem}.md", text)
            figures(results, path.stem)


def read_results() -> dict[Path, dict[str, Any]]:
    """All results files by their path. Intervals of paired differences follow from their counts;
    files keep those that were recorded."""
    return {path: _renewed(json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json"))}


def _renewed(results: dict[str, Any]) -> dict[str, Any]:
    if "rates" in results:
        return renew_intervals(results)
    if "rates" in results.get("benchmark", {}):
        return results | {"benchmark": renew_intervals(results["benchmark"])}
    return results


def tables(results: dict[str, Any]) -> str | None:
    """The tables of a results file, None for an unknown kind."""
    if "rows" in results:
        return markdown_tables(results["rows"], results["settings"])
    if "rates" in results:
        return markdown(results)
    if "viewpoint" in results:
        return viewpoint_tables(results)
    if "viewpoint_gap" in results:
        return gap_table(results["viewpoint_gap"])
    return comparison_markdown(results) if "benchmark" in results else None


def figures(results: dict[str, Any], name: str) -> None:
    """The figures of a results file; strips of pictures are drawn where they are rendered."""
    DOCS.mkdir(parents=True, exist_ok=True)
    if "viewpoint" in results or "viewpoint_gap" in results:
        return
    if "rows" in results:
        draw_figure(results["rows"], results["settings"], DOCS / f"{name}.png")
        return
    summary = results if "rates" in results else results["benchmark"]
    trainings = results.get("trainings")
    if trainings is None:
        success_figure(summary, DOCS / f"{name}.png")
    else:
        trainings_figure(trainings["rows"], DOCS / f"{name}.png")
    if moved_axes([row["control"] for row in summary["rates"]]):
        trained = None if trainings is None else trainings["policies"]
        shift_figure(summary, DOCS / f"{name}-camera-shift.png", trained)
    if "late_chunks" in results:
        late_chunks_figure(results["late_chunks"], DOCS / f"{name}-late-chunks.png")
    if summary["calibration"]:
        calibration_figure(summary, DOCS / f"{name}-calibration.png")
    sizes = [VOCABULARY_LABEL.fullmatch(label) for label in results.get("policies", {})]
    if sizes and all(sizes):
        vocabulary_figure(results, DOCS / f"{name}-error.png")


def vocabulary_figure(results: dict[str, Any], path: Path) -> None:
    """Success and error on held-out demonstrations against the vocabulary's size, whose policies
    are called v16, v64, ..."""
    policies: dict[str, dict[str, float]] = results["policies"]
    sizes = [int(label[1:]) for label in policies]
    # Of a policy's rates the last one is that over all tasks.
    rates = {r["policy"]: r for r in results["benchmark"]["rates"] if r["control"] == "none"}
    share = [100 * rates[label]["rate"] for label in policies]
    margins = [
        [100 * (rates[label]["rate"] - rates[label]["low"]) for label in policies],
        [100 * (rates[label]["high"] - rates[label]["rate"]) for label in policies],
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.8, 3.0), layout="constrained")
        success, error = figure.subplots(1, 2)
        success.errorbar(sizes, share, margins, color=COLOURS[0], marker="o", ms=5, capsize=3)
        success.set(ylabel="success, % (95 % Wilson interval)", ylim=(-2, 102))
        for key, label, colour in (
            ("error", "of the policy", COLOURS[0]),
            ("codes", "of the codes alone", COLOURS[1]),
        ):
            values = [row[key] for row in policies.values()]
            error.plot(sizes, values, color=colour, marker="o", ms=5, label=label)
        error.set(ylabel="mean absolute error, held out", yscale="log")
        error.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        error.legend(loc="lower left")
        for axes in (success, error):
            axes.set(xscale="log", xlabel="codes per action dimension")
            axes.set_xticks(sizes, [str(size) for size in sizes], rotation=45)
            axes.minorticks_off()
            axes.grid(axis="y", alpha=0.3, lw=0.5)
        save_figure(figure, path)


if __name__ == "__main__":
    main()
