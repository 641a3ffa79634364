"""What a sweep finds best is measured on other seeds, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from e0_bench.token_lab.decodings import OWN, Way
from e0_bench.token_lab.measure import execute
from e0_bench.token_lab.picks import SweepError, best_runs, is_sweep, pick_best, sweep_runs
from e0_bench.token_lab.results import OtherSettingsError, ResultsFile
from e0_bench.token_lab.settings import OBJECTIVES, REFERENCES, LabSettings, Run, plan_runs
from e0_bench.token_lab.synthetic_chunks import ChunkProblem

SMALL = LabSettings(
    problem=ChunkProblem(horizon=2, action_dim=2, modes=2),
    train_steps=2,
    batch_size=4,
    denoising_steps=(1, 2),
    evaluation_contexts=2,
    chunks=4,
)
ALL = OBJECTIVES | REFERENCES


def plan(*names: str, seed: int) -> list[Run]:
    return plan_runs({name: ALL[name] for name in names}, [16], [seed])


def row(decoding: str, energy: float | None, coherence: float, **other: Any) -> dict[str, Any]:
    return {
        "variant": "flow", "bins": None, "seed": 100, "denoising_steps": 1, "best_by": None,
        "decoding": decoding, "energy_distance": energy, "coherence": coherence, **other,
    }  # fmt: skip


def picked(rows: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    return [(row["decoding"], row["best_by"]) for row in pick_best(rows)]


def test_the_best_are_those_by_each_metric_and_ties_go_to_the_other() -> None:
    rows = [row(OWN, 9.0, 0.5), row("a", 5.0, 0.6), row("b", 7.0, 0.9), row("c", 5.0, 0.7)]
    expected = [(OWN, []), ("c", ["energy_distance"]), ("b", ["coherence"])]
    assert picked(rows) == picked(rows[:1] + rows[:0:-1]) == expected
    assert picked([row(OWN, 1.0, 0.5), row("a", 1.0, 0.5)]) == [
        (OWN, ["energy_distance", "coherence"])
    ]
    both = [row(OWN, 3.0, 0.9), row("a", 2.0, 0.9)]
    assert picked(both) == [(OWN, []), ("a", ["energy_distance", "coherence"])]
    with pytest.raises(SweepError, match="flow, seed 100, was measured without the energy"):
        pick_best([row(OWN, None, 0.5)])


def test_choices_are_made_for_each_number_of_steps_from_means_over_seeds() -> None:
    rows = [
        row(decoding, energy, 0.5, seed=seed, denoising_steps=k)
        for decoding, k, energies in [
            (OWN, 1, (1.0, 9.0)), ("a", 1, (4.0, 5.0)), (OWN, 2, (1.0, 2.0)), ("a", 2, (9.0, 9.0))
        ]
        for seed, energy in enumerate(energies)
    ]  # fmt: skip
    best = [
        (row["decoding"], row["denoising_steps"], row["seed"])
        for row in pick_best(rows) if row["best_by"]
    ]  # fmt: skip
    assert best == [("a", 1, 0), ("a", 1, 1), (OWN, 2, 0), (OWN, 2, 1)]
    alone = [row(OWN, 1.0, 0.5)]
    assert pick_best(alone) == alone  # nothing to choose


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> ResultsFile:
    results = ResultsFile(tmp_path_factory.mktemp("sweep") / "sweep.json", SMALL)
    for run in sweep_runs(plan("e0 ordinal", "autoregressive", "regression", "exact", seed=100)):
        results.add(execute(run, SMALL, lambda steps: None))
    return results


def test_a_sweep_measures_every_decoding_of_one_training(sweep: ResultsFile) -> None:
    assert is_sweep(sweep.rows) and not is_sweep(pick_best(sweep.rows))
    own = [row for row in sweep.rows if row["variant"] == "e0 ordinal"]
    decodings = [row["decoding"] for row in own]
    assert len({row["loss"] for row in own}) == 1
    assert [row["denoising_steps"] for row in own] == [1] * 12 + [2] * 12
    assert decodings[0] == OWN and len(set(decodings[:12])) == 12 and "start=zero" in decodings
    last = [row for row in sweep.rows if row["variant"] == "autoregressive"]
    assert [row["decoding"] for row in last] == [OWN, *(f"temperature={t}" for t in (0, 0.5, 0.7))]
    assert {row["variant"]: row["best_by"] for row in pick_best(sweep.rows)}["regression"] is None


def test_reported_runs_are_measured_under_what_the_sweep_chose(sweep: ResultsFile) -> None:
    again = ResultsFile(sweep.path, SMALL)
    runs = best_runs(plan("e0 ordinal", "autoregressive", "regression", "exact", seed=1), again)
    assert runs[3].ways == (Way(),) and {way.decoding for way in runs[2].ways} == {OWN}
    chosen = [
        {(row["decoding"], row["denoising_steps"], tuple(row["best_by"] or ())) for row in rows}
        for rows in (
            [row for row in pick_best(sweep.rows) if row["variant"] == name]
            for name in ("e0 ordinal", "autoregressive")
        )
    ]
    for run, expected in zip(runs, chosen, strict=False):
        rows = execute(run, SMALL, lambda steps: None)
        measured = {(r["decoding"], r["denoising_steps"], tuple(r["best_by"])) for r in rows}
        assert measured == expected and len(rows) == len(expected)
        json.dumps(rows, allow_nan=False)


def test_resuming_keeps_to_the_decodings_of_the_file(sweep: ResultsFile) -> None:
    runs = sweep_runs(plan("e0 ordinal", "flow", seed=100))
    assert [run.variant for run in sweep.missing(runs)] == ["flow"]
    with pytest.raises(OtherSettingsError, match="seed 100, measured under other decodings"):
        sweep.missing(plan("e0 ordinal", seed=100))


def test_a_sweep_that_does_not_fit_is_refused(sweep: ResultsFile) -> None:
    with pytest.raises(SweepError, match="chose decodings on seed 100: measure with other seeds"):
        best_runs(plan("e0 ordinal", seed=100), sweep)
    with pytest.raises(SweepError, match="no decodings of 'masked' with bins 16"):
        best_runs(plan("masked", seed=1), sweep)
    with pytest.raises(OtherSettingsError, match="other settings than"):
        run = plan("e0 ordinal", seed=1)[0]
        best_runs([replace(run, overrides={**run.overrides, "temperature": 0.5})], sweep)


def test_results_from_before_there_were_decodings_are_of_the_own_one(tmp_path: Path) -> None:
    (run,) = plan("exact", seed=1)
    results = ResultsFile(tmp_path / "old.json", SMALL)
    rows = execute(run, SMALL, lambda steps: None)
    new = ("decoding", "best_by", "spread", "energy_distance")
    results.add([{name: value for name, value in row.items() if name not in new} for row in rows])
    assert ResultsFile(results.path, SMALL).missing([run]) == []
