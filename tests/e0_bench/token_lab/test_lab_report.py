"""Tables and figures show everything that the token lab measures, also of older results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from e0_bench.token_lab.report import draw_figure, markdown_tables
from e0_bench.token_lab.settings import LabSettings

Table = list[list[str]]
SETTINGS = LabSettings(denoising_steps=(1, 10), evaluation_contexts=2, chunks=5).as_json()
ROW: dict[str, Any] = {
    "variant": "e0 ordinal", "objective": "e0", "bins": 256, "tv": 0.1, "tv_floor": 0.05,
    "steps_per_second": 10.0, "loss": 2.0,
}  # fmt: skip


def old_rows() -> list[dict[str, Any]]:
    """As they were before there were decodings and an energy distance."""
    rows = [
        ROW | {"seed": seed, "denoising_steps": k, "steps_taken": k, "coherence": c, "mae": mae,
               "shift_std": 0.2, "chunks_per_second": 1000.0 / k}
        for seed, k, c, mae in [(0, 1, 0.0, None), (0, 10, 0.8, 2.0), (1, 1, 0.2, 4.0),
                                (1, 10, 0.9, 3.0)]
    ]  # fmt: skip
    rows.append(
        ROW | {"variant": "autoregressive", "objective": "autoregressive", "seed": 0,
               "denoising_steps": 32, "steps_taken": 32, "coherence": 0.9, "mae": 2.0,
               "shift_std": None, "chunks_per_second": 100.0}
    )  # fmt: skip
    rows.append(
        ROW | {"variant": "exact", "objective": "exact", "seed": 0, "denoising_steps": None,
               "steps_taken": None, "coherence": 1.0, "mae": 1.3, "steps_per_second": None,
               "loss": None, "chunks_per_second": None, "shift_std": 1.0}
    )  # fmt: skip
    return rows


def read(text: str) -> tuple[dict[str, Table], str]:
    """The tables by the first word of their titles, and the note."""
    parts = text.split("\n\n")
    tables = {
        title.strip("*").split(",")[0].split()[0]: [
            [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
        ]
        for title, table in zip(parts[:-1:2], parts[1::2], strict=True)
    }
    return tables, parts[-1]


def test_tables_give_mean_and_deviation_over_seeds() -> None:
    tables, note = read(markdown_tables(old_rows(), SETTINGS))
    assert list(tables) == ["Coherent", "Error", "Total", "Spread", "Chunks", "Training"]
    assert tables["Coherent"][0] == ["objective", "V", "K=1", "K=10", "own"]
    assert tables["Coherent"][2:] == [
        ["e0 ordinal", "256", "0.10 ± 0.14", "0.85 ± 0.07", ""],
        ["autoregressive", "256", "", "", "0.90 (32)"],
        ["exact", "256", "", "", "1.00"],
    ]
    assert tables["Error"][2] == ["e0 ordinal", "256", "4.00", "2.50 ± 0.71", ""]
    assert tables["Total"][2][2:] == ["0.100 ± 0.000", "0.100 ± 0.000", ""]
    assert tables["Spread"][2:] == [  # without the autoregressive policy's, which has none
        ["e0 ordinal", "256", "0.20 ± 0.00", "0.20 ± 0.00", ""],
        ["exact", "256", "", "", "1.00"],
    ]
    assert tables["Chunks"][2:] == [  # nothing was measured for exact samples
        ["e0 ordinal", "256", "1000 ± 0", "100 ± 0", ""],
        ["autoregressive", "256", "", "", "100 (32)"],
    ]
    assert tables["Training"][2:] == [
        ["e0 ordinal", "256", "10.0", "2.000"],
        ["autoregressive", "256", "10.0", "2.000"],
    ]
    assert "2 seeds; 2 contexts × 5 chunks" in note and "reach 0.050" in note
    assert "a policy without chance" in note and "Energy" not in note and "Decodings" not in note


def decoded(decoding: str, k: int, energy: float, best_by: list[str] | None) -> dict[str, Any]:
    return ROW | {
        "seed": 0, "denoising_steps": k, "steps_taken": k, "coherence": 1 - energy / 100,
        "mae": 1.0, "spread": 0.3, "energy_distance": energy, "chunks_per_second": 10.0,
        "decoding": decoding, "best_by": best_by,
    }  # fmt: skip


def test_a_sweep_tells_what_was_best_and_all_else() -> None:
    rows = [decoded(d, k, e, None) for d, k, e in [
        ("", 1, 20.0), ("start=zero", 1, 9.0), ("", 10, 3.0), ("start=zero", 10, 4.0)
    ]]  # fmt: skip
    tables, note = read(markdown_tables(rows, SETTINGS))
    assert tables["Best"][2:] == [
        ["e0 ordinal: best by energy distance", "256", "start=zero", "its own", ""],
        ["e0 ordinal: best by coherence", "256", "start=zero", "its own", ""],
    ]
    assert tables["Energy"][2:] == [
        ["e0 ordinal", "256", "20.0", "3.0", ""],
        ["e0 ordinal: start=zero", "256", "9.0", "4.0", ""],
    ]
    assert len(tables["Training"]) == 3  # one training, however often it was decoded
    assert "Decodings are settings" in note and "chosen" not in note


def test_chosen_decodings_have_lines_of_what_they_were_chosen_by() -> None:
    both = ["energy_distance", "coherence"]
    rows = [decoded("", 1, 20.0, []), decoded("start=zero", 1, 9.0, both[:1]),
            decoded("temperature=0", 1, 12.0, both[1:]), decoded("", 10, 3.0, both)]  # fmt: skip
    tables, note = read(markdown_tables(rows, SETTINGS))
    assert tables["Best"][2:] == [
        ["e0 ordinal: best by energy distance", "256", "start=zero", "its own", ""],
        ["e0 ordinal: best by coherence", "256", "temperature=0", "its own", ""],
    ]
    assert tables["Energy"][2:] == [
        ["e0 ordinal", "256", "20.0", "3.0", ""],
        ["e0 ordinal: best by energy distance", "256", "9.0", "3.0", ""],
        ["e0 ordinal: best by coherence", "256", "12.0", "3.0", ""],
    ]
    assert "chosen on trainings with other seeds" in note


def test_the_figure_has_a_row_for_everything_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr("e0_bench.token_lab.report.save_figure", lambda f, path: figures.append(f))
    draw_figure(old_rows(), SETTINGS, tmp_path / "old.png")
    rows = [decoded("", 1, 20.0, []), decoded("start=zero", 1, -9.0, ["energy_distance"])]
    draw_figure(rows, SETTINGS, tmp_path / "new.png")
    old, new = ([axes.get_ylabel().split()[0] for axes in f.axes] for f in figures)
    assert old == ["coherent", "error", "total", "spread"]
    assert new == ["coherent", "error", "total", "spread", "energy"]
    line = figures[1].axes[-1].get_lines()[0]
    assert list(line.get_ydata()) == [-9.0]  # at its best, and below zero
