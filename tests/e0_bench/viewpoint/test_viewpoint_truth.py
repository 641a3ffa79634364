"""The viewpoint benchmark: one scene seen by cameras that really moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from e0_bench.viewpoint.cost import measure_cost, measure_training
from e0_bench.viewpoint.figures import draw_strips
from e0_bench.viewpoint.tables import markdown_table, summarize
from e0_bench.viewpoint.truth import (
    METHODS,
    SHIFTS,
    measure,
    noise_ratio,
    similarity,
)


@pytest.fixture(scope="module")
def rows(rendering: None) -> list[dict[str, Any]]:
    return list(measure("PushCube-v1", 5, 0))


def test_depth_is_closest_and_a_table_beats_no_warp(
    rows: list[dict[str, Any]],
) -> None:
    assert len(rows) == len(SHIFTS) * len(METHODS)
    by_shift: dict[tuple, dict[str, float]] = {}
    for row in rows:
        by_shift.setdefault(tuple(row["shift"]), {})[row["method"]] = row["psnr"]
    for (azimuth, *_), psnr in by_shift.items():
        assert psnr["depth"] >= max(psnr.values()) - 0.1
        if abs(azimuth) <= 20:
            assert psnr["table plane"] > psnr["home"] + 1
        if abs(azimuth) <= 15:
            assert psnr["depth"] > 25


def test_tables_tell_means_and_the_number_of_scenes(rows: list[dict[str, Any]]) -> None:
    other = [row | {"seed": 6, "psnr": row["psnr"] + 2} for row in rows]
    summary = summarize(rows + other)
    assert len(summary) == len(rows)
    assert summary[0]["psnr"] == pytest.approx(rows[0]["psnr"] + 1)
    table = markdown_table(summary)
    assert "**PushCube-v1**, 2 scenes" in table
    assert table.count("\n| ") == len(SHIFTS) + 1
    assert f"{summary[0]['psnr']:.1f} (" in table


def test_strips_are_drawn(rendering: None, tmp_path: Path) -> None:
    draw_strips("PushCube-v1", 5, 0, tmp_path / "strips.png")
    assert (tmp_path / "strips.png").read_bytes().startswith(b"\x89PNG")


def test_measures_of_pictures() -> None:
    picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    half = torch.zeros(16, 16, dtype=torch.bool)
    half[:8] = True
    spoiled = picture.clone()
    spoiled[:, 8:] = 0
    assert noise_ratio(spoiled, picture, half) == pytest.approx(100)
    assert noise_ratio(picture + 0.1, picture, ~half) == pytest.approx(20, abs=1e-3)
    assert similarity(picture, picture, half) == pytest.approx(1, abs=1e-5)
    assert similarity(spoiled, picture, ~half) < 0.5


def test_costs_are_compared_with_libraries() -> None:
    costs = measure_cost(torch.device("cpu"), repetitions=1)
    assert costs[0]["method"] == "table plane" and costs[0]["ratio_to_table_plane"] == 1
    assert {row["runs"] for row in costs} == {1}
    assert len(costs) == 4 and all(row["milliseconds"] > 0 for row in costs)


def test_the_share_of_a_training_step_is_measured() -> None:
    training = measure_training(torch.device("cpu"), repetitions=1)
    step, rows = training["step_ms"], training["augmentations"]
    assert [row["augmentation"] for row in rows][:2] == ["table plane", "table plane, light"]
    for row in rows:
        assert 0 < row["milliseconds"] < step
        share = row["milliseconds"] / (row["milliseconds"] + step)
        assert row["share"] == pytest.approx(share, abs=1e-3)
