"""The token lab: every objective runs, results are kept, resumed and never mixed."""

from __future__ import annotations

import json
import re
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from e0_bench.token_lab import runner
from e0_bench.token_lab.measure import execute
from e0_bench.token_lab.report import draw_figure
from e0_bench.token_lab.results import OtherSettingsError, ResultsFile
from e0_bench.token_lab.runner import run_lab
from e0_bench.token_lab.settings import (
    OBJECTIVES,
    REFERENCES,
    LabSettings,
    UnknownVariantError,
    parse_variant,
    plan_runs,
)
from e0_bench.token_lab.synthetic_chunks import ChunkProblem

SMALL = LabSettings(
    problem=ChunkProblem(horizon=3, action_dim=3, modes=2),
    train_steps=3,
    batch_size=4,
    denoising_steps=(1, 3),
    evaluation_contexts=2,
    chunks=5,
)
ALL = OBJECTIVES | REFERENCES


def some(*names: str) -> dict[str, dict[str, Any]]:
    return {name: ALL[name] for name in names}


def nothing(steps: int) -> None:
    """Progress that nobody watches."""


@pytest.mark.parametrize("name", ALL)
def test_every_objective_and_reference_gives_complete_rows(name: str) -> None:
    ticks = []
    rows = execute(plan_runs(some(name), [16], [0])[0], SMALL, ticks.append)
    steps = {"autoregressive": [9], "regression": [1], "mip": [2], "exact": [None]}.get(
        name, [1, 3]
    )
    assert [row["denoising_steps"] for row in rows] == steps
    assert [row["steps_taken"] for row in rows] == steps
    assert sum(ticks) == (0 if name in REFERENCES else 3)
    assert rows[0]["bins"] == (
        None if name in ("flow", "flow, reflow", "regression", "mip") else 16
    )
    for row in rows:
        assert 0 <= row["coherence"] <= 1 and 0 <= row["tv"] <= 1 and 0 < row["tv_floor"] < 0.5
        assert (row["steps_per_second"] is None) == (name in REFERENCES)
        json.dumps(row, allow_nan=False)
    assert len({frozenset(row) for row in rows}) == 1


def test_references_are_as_good_as_samples_can_be() -> None:
    settings = replace(SMALL, denoising_steps=(10,), evaluation_contexts=8, chunks=32)
    for run in plan_runs(REFERENCES, [64], [0]):
        (row,) = execute(run, settings, nothing)
        assert row["coherence"] > 0.97, run
        assert row["tv"] < 2 * row["tv_floor"], run
        assert abs(row["energy_distance"]) < 30, run  # regression, untrained: 2000


def test_a_run_depends_on_its_seed_alone() -> None:
    first, second = plan_runs(some("e0 ordinal"), [16], [0, 1])
    state = torch.get_rng_state()
    losses = [execute(run, SMALL, nothing)[0]["loss"] for run in (first, first, second)]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(state, torch.get_rng_state())


def test_finished_runs_are_kept_and_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    begun = plan_runs(some("e0 ordinal", "exact"), [16], [0])
    first = run_lab(SMALL, begun, ResultsFile(path, SMALL), workers=2)
    assert [row["variant"] for row in first] == ["e0 ordinal", "e0 ordinal", "exact"]
    more = plan_runs(some("bayes ordinal", "e0 ordinal"), [16], [0])
    results = ResultsFile(path, SMALL)
    assert [run.variant for run in results.missing(more)] == ["bayes ordinal"]
    second = run_lab(SMALL, more, results, workers=1)
    assert [row["variant"] for row in second] == ["bayes ordinal"] * 2 + ["e0 ordinal"] * 2
    assert second[2:] == first[:2]  # with the measured speed: these were not run again
    assert len(json.loads(path.read_text())["rows"]) == 5
    assert list(tmp_path.iterdir()) == [path]

    draw_figure(first + second[:2], results.settings, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "results.json", SMALL)
    (run,) = plan_runs({"mine": {"objective": "exact"}}, [16], [0])
    results.add(execute(run, SMALL, nothing))
    with pytest.raises(OtherSettingsError, match="train_steps 3 instead of 4"):
        ResultsFile(results.path, replace(SMALL, train_steps=4))
    other = plan_runs({"mine": {"objective": "e0", "temperature": 0.5}}, [16], [0])
    with pytest.raises(OtherSettingsError, match="another name"):
        ResultsFile(results.path, SMALL).missing(other)


@pytest.mark.parametrize("order", [("exact", "bayes ordinal"), ("bayes ordinal", "exact")])
def test_a_failing_run_names_itself_and_keeps_the_others(
    tmp_path: Path, order: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_for_all(pending: dict[Any, Any], **_: Any) -> tuple[list[Any], set[Any]]:
        """Both finish before anybody looks, in either order."""
        wait(pending)
        return list(pending), set()

    monkeypatch.setattr(runner, "wait", wait_for_all)
    impossible = replace(SMALL, denoising_steps=(0,))
    results = ResultsFile(tmp_path / "results.json", impossible)
    runs = plan_runs({name: some(name)[name] for name in order}, [16], [0])
    with pytest.raises(ValueError, match="at least 1") as caught:
        run_lab(impossible, runs, results, workers=1)
    assert caught.value.__notes__ == ["in the run bayes ordinal, 16 bins, seed 0"]
    assert [row["variant"] for row in ResultsFile(results.path, impossible).rows] == ["exact"]


def test_variants_are_settings_of_the_policy() -> None:
    name, overrides = parse_variant("cold, early:temperature=0.5,early_stop=true,embedding=one_hot")
    assert name == "cold, early"
    assert overrides == {
        "objective": "e0", "temperature": 0.5, "early_stop": True, "embedding": "one_hot"
    }  # fmt: skip
    fine = parse_variant("fine:vocabulary_size=512")[1]
    runs = plan_runs({"fine": fine, **some("masked", "flow")}, [16, 32], [0, 1])
    assert [(r.variant, r.bins) for r in runs[:4]] == [
        ("fine", 512), ("masked", 16), ("masked", 32), ("flow", None)
    ]  # fmt: skip
    assert [r.seed for r in runs] == [0] * 4 + [1] * 4
    for text, complaint in (
        ("no settings", "expected name:key=value"),
        ("x:wheels=4", "sets 'wheels'; known settings: "),
        ("x:horizon=4", "sets 'horizon'; known settings: "),
        ("x:temperature=hot", "temperature must be a float, got 'hot'"),
    ):
        with pytest.raises(UnknownVariantError, match=re.escape(complaint)):
            parse_variant(text)
    with pytest.raises(ValueError, match="unknown objective 'e1'"):
        plan_runs({"x": {"objective": "e1"}}, [16], [0])
