"""Late chunks over several trainings: which episodes belong together, the table, the figure."""

from pathlib import Path
from typing import Any

import pytest

from e0_bench.comparison.late_chunks import late_chunks, late_chunks_figure, late_chunks_markdown

POLICIES = {"e0-1": "e0", "e0-2": "e0", "rtc-1": "rtc", "rtc-2": "rtc"}
RATES = {
    "none": (1.0, 0.8, 0.9, 0.9),
    "delay=4": (0.5, 0.7, 0.8, 0.9),
    "delay=4 chunking=naive": (0.4, 0.2, 0.3, 0.3),
    "camera_shift=1,0,1,0": (0.0, 0.0, 0.0, 0.0),
}


def summary() -> dict[str, Any]:
    rates = [
        {"policy": label, "task": task, "control": control, "rate": rate}
        for control, row in RATES.items()
        for label, rate in zip(POLICIES, row, strict=True)
        for task in ("Push", "all tasks")
    ]
    delays = [
        {"policy": label, "task": "Push", "steps": 4, "chunking": chunking}
        | {"seam": place + 1.0, "change_at_seams": 0.5, "change_elsewhere": 0.25, "jerk": 2.0}
        for chunking in ("given", "naive")
        for place, label in enumerate(POLICIES)
    ]
    return {"rates": rates, "delays": delays}


def test_trainings_of_a_policy_are_put_together() -> None:
    rows = late_chunks(summary(), POLICIES)
    assert [(row["policy"], row["delay"], row["chunking"], row["rates"]) for row in rows] == [
        ("e0", 0, "", [1.0, 0.8]),
        ("rtc", 0, "", [0.9, 0.9]),
        ("e0", 4, "given", [0.5, 0.7]),
        ("rtc", 4, "given", [0.8, 0.9]),
        ("e0", 4, "naive", [0.4, 0.2]),
        ("rtc", 4, "naive", [0.3, 0.3]),
    ]
    assert "seam" not in rows[0]
    assert [row["seam"] for row in rows[2:]] == pytest.approx([1.5, 3.5, 1.5, 3.5])


def test_they_become_a_table_and_a_figure(tmp_path: Path) -> None:
    rows = late_chunks(summary(), POLICIES)
    lines = [" ".join(line.split()) for line in late_chunks_markdown(rows).splitlines()]
    assert "| Push | e0 | 4 | naive | 40, 20 | 30 | 1.50 | 0.50 | 0.25 | 2.00 |" in lines
    assert "| Push | e0 | 0 | | 100, 80 | 90 | | | | |" in lines
    late_chunks_figure(rows, tmp_path / "late.png")
    assert (tmp_path / "late.png").read_bytes().startswith(b"\x89PNG")
