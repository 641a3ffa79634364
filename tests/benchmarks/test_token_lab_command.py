"""The token lab's command: a sweep on seeds of its own, then what was best on others."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from e0_bench.files import read_json
from e0_bench.token_lab.measure import execute
from e0_bench.token_lab.results import ResultsFile, Row
from e0_bench.token_lab.settings import LabSettings, Run
from scripts import load_script

SMALL = ["--train-steps=2", "--evaluation-contexts=2", "--chunks=3", "--objectives", "flow"]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    script = load_script("token_lab")

    def run_here(
        settings: LabSettings, runs: list[Run], results: ResultsFile, workers: int
    ) -> list[Row]:
        for run in results.missing(runs):
            results.add(execute(run, settings, lambda steps: None))
        return [row for run in runs for row in results.of(run)]

    monkeypatch.setattr(script, "run_lab", run_here)
    return script


def test_what_a_sweep_chose_is_measured_on_other_seeds(
    lab: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, out = tmp_path / "sweep.json", tmp_path / "out.json"
    lab.main([*SMALL, "--sweep", f"--out={sweep}"])
    assert "best by energy distance" in capsys.readouterr().out
    swept = read_json(sweep)["rows"]
    assert {row["seed"] for row in swept} == {100}
    assert {row["decoding"] for row in swept} == {"", "start=zero"}

    chosen = [*SMALL, f"--decodings={sweep}", f"--out={out}"]
    lab.main([*chosen, "--seeds=1"])
    rows = read_json(out)["rows"]
    assert {row["seed"] for row in rows} == {1}
    assert all(any("coherence" in r["best_by"] for r in rows if r["denoising_steps"] == k)
               for k in (1, 2, 4, 10))  # fmt: skip
    lab.main([*chosen, "--seeds=1"])  # finished: nothing is measured again
    assert read_json(out)["rows"] == rows

    with pytest.raises(SystemExit):
        lab.main([*chosen, "--seeds", "1", "100"])
    assert "chose decodings on seed 100: measure with other seeds" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        lab.main([*SMALL, "--seeds=1", f"--out={out}"])
    assert "measured under other decodings: give another file" in capsys.readouterr().err


def test_without_a_sweep_policies_are_decoded_as_they_are(lab: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    lab.main([*SMALL, "--seeds=1", f"--out={out}"])
    rows = read_json(out)["rows"]
    assert [row["denoising_steps"] for row in rows] == [1, 2, 4, 10]
    assert {row["decoding"] for row in rows} == {""} and {row["best_by"] for row in rows} == {None}
