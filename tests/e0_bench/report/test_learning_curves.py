"""The learning curves that a report shows: of all trainings, and on through corrections."""

import json
from pathlib import Path

from e0_bench.report.reading import Part


def test_a_curve_goes_on_through_the_rounds_of_corrections(tmp_path: Path) -> None:
    part = Part("stack", tmp_path, {}, {}, tmp_path / "episodes.jsonl")
    assert part.learning_curve("e0-1") == []
    for place, losses in {"train": (9, 8), "corrected/10": (3,), "corrected/2": (7, 6)}.items():
        directory = tmp_path / place / "e0-1"
        directory.mkdir(parents=True)
        (directory.parent / "e0-1.log").touch()
        rows = [{"step": 5 * n, "loss": loss} for n, loss in enumerate(losses, 1)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / "learning_curve.jsonl").write_text(text)
    curve = part.learning_curve("e0-1")
    assert [(row["step"], row["loss"]) for row in curve] == list(
        zip((5, 10, 15, 20, 25), (9, 8, 7, 6, 3), strict=True)
    )
