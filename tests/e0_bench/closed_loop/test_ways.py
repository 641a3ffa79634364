"""What is said of tasks with several ways, from episodes written down by hand and simulated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e0_bench.closed_loop.environments import EnvironmentSettings
from e0_bench.closed_loop.episodes import EpisodeJob, EpisodeResult
from e0_bench.closed_loop.runner import Assignment, Runner, RunnerSettings
from e0_bench.closed_loop.summary import markdown, summarize
from e0_bench.closed_loop.ways import (
    WAYS_NOTE,
    balance,
    changes_of_mind,
    demonstrated_shares,
    ways_summary,
    ways_table,
)
from e0_bench.statistics import wilson_interval
from e0_experts.poses import UP
from e0_maniskill.experts import Expert
from e0_maniskill.waypoints import Scene
from made_checkpoints import save_policy

EITHER, POST, TWO_POSTS = "PickEitherCube-v1", "PassPost-v1", "PassTwoPosts-v1"
SHARES = {EITHER: (0.5, 0.5), POST: (0.3, 0.7)}
FOUR = (0.1, 0.2, 0.3, 0.4)


def episodes(policy: str, task: str, ways: str, **change: Any) -> list[EpisodeResult]:
    """An episode for each sign: L and R are successes, l and r failures, - one without a way."""
    usual = EpisodeResult(policy, task, 0, "none", False, 10, 0.0, [], 2, 20.0, "do it")
    way: dict[str, int | None] = {"l": 0, "r": 1, "-": None}
    return [
        replace(
            usual,
            **{"success": sign.isupper(), "seed": seed, "way": way[sign.lower()]}
            | {"changes_of_mind": 0, "between": False}
            | change,
        )
        for seed, sign in enumerate(ways)
    ]


@pytest.mark.parametrize(
    ("counts", "shares", "expected"),
    [
        ([5, 5], (0.5, 0.5), 1.0),
        ([2, 8], (0.5, 0.5), 0.4),
        ([10, 0], (0.5, 0.5), 0.0),
        ([3, 7], (0.3, 0.7), 1.0),
        ([5, 5], (0.3, 0.7), 5 / 7),
        ([1, 9], (0.3, 0.7), 1 / 3),
        ([2, 2, 2, 4], (0.25,) * 4, 0.8),
        ([1, 2, 3, 4], FOUR, 1.0),
        ([1, 1, 4, 4], FOUR, 0.5),
        ([0, 0, 0, 10], FOUR, 0.0),
        ([0, 0], (0.5, 0.5), None),
    ],
)
def test_balance(counts: list[int], shares: tuple[float, ...], expected: float | None) -> None:
    assert balance(counts, shares) == (expected and pytest.approx(expected))


@pytest.mark.parametrize(("shares", "expected"), [((0.3, 0.7), ".91"), (FOUR, ".77")])
def test_balance_by_chance_is_what_the_note_tells(shares: tuple[float, ...], expected: str) -> None:
    counts = np.random.default_rng(0).multinomial(100, shares, size=4000)
    mean = np.mean([balance(row, shares) for row in counts.tolist()])
    assert f"{mean:.2f}"[1:] == expected and expected in WAYS_NOTE


def test_a_mind_is_changed_from_one_way_to_another_only() -> None:
    assert changes_of_mind([]) == changes_of_mind([-1, -1]) == changes_of_mind([-1, 1, -1, 1]) == 0
    assert changes_of_mind([-1, 0, 0, -1, 1, 1, 0, -1]) == 2


def test_shares_are_those_of_the_tasks() -> None:
    assert demonstrated_shares("maniskill", ["PickCube-v1", EITHER, POST]) == SHARES
    assert demonstrated_shares("libero", ["libero_10/0"]) == {}


def test_a_row_for_each_policy_and_task_with_ways() -> None:
    rows = episodes("a", EITHER, "LLLRRrl-") + episodes("a", POST, "LRRr", changes_of_mind=2)
    rows += episodes("b", EITHER, "rrll----", between=True) + episodes("b", POST, "RRRR")
    rows += episodes("a", "PickCube-v1", "----", way=None, changes_of_mind=None, between=None)
    rows += episodes("b", "PickCube-v1", "----", way=None, changes_of_mind=None, between=None)
    rows += episodes("a", EITHER, "RR", control="blackout", between=True)
    rows += episodes("b", EITHER, "RR", control="blackout", between=True)
    rows[0] = replace(rows[0], between=True, changes_of_mind=4)
    tasks = [EITHER, POST, "PickCube-v1"]
    arguments = ([r for r in rows if r.control == "none"], ["a", "b"], tasks, [])
    found = summarize(*arguments, SHARES)["ways"]
    assert [(row["policy"], row["task"]) for row in found] == [
        ("a", EITHER),
        ("a", POST),
        ("b", EITHER),
        ("b", POST),
    ]
    first, second, third, fourth = found
    assert (first["counts"], first["balance"]) == ([3, 2], pytest.approx(0.8))
    assert (first["went_between"], first["episodes"], first["changes_of_mind"]) == (1, 8, 0.5)
    assert (first["low"], first["high"]) == wilson_interval(1, 8)
    assert (second["counts"], second["balance"]) == ([1, 2], pytest.approx(2 / 3 / 0.7))
    assert second["changes_of_mind"] == 2
    assert (third["counts"], third["balance"], third["went_between"]) == ([0, 0], None, 8)
    assert (fourth["counts"], fourth["balance"]) == ([0, 4], 0)
    table = markdown(summarize(*arguments, SHARES))
    assert "## Ways" in table
    (line,) = (li for li in table.splitlines() if li.startswith("| a ") and "3 / 2" in li)
    low, high = (f"{100 * bound:.0f}" for bound in wilson_interval(1, 8))
    for cell in ("50 % / 50 %", "0.80", f"1/8 ({low}–{high} %)", "0.50"):
        assert f"| {cell} " in line
    assert "no success" in table
    assert ways_summary(rows, ["a", "b"], SHARES)["ways"] == found, "a control's episodes count"


def test_four_ways_have_a_row_too() -> None:
    rows = [
        replace(row, way=way, changes_of_mind=way)
        for way, row in zip(
            [0, 1, 1, 2, 2, 3, 3, 3], episodes("a", TWO_POSTS, "R" * 8), strict=True
        )
    ]
    shares = demonstrated_shares("maniskill", [TWO_POSTS])
    (found,) = ways_summary(rows, ["a"], shares)["ways"]
    assert (found["counts"], found["demonstrated"]) == ([1, 2, 2, 3], [*FOUR])
    assert found["balance"] == pytest.approx(2 / 8 / 0.3)
    assert found["changes_of_mind"] == pytest.approx(15 / 8)
    table = ways_table([found])
    assert "| 1 / 2 / 2 / 3 |" in table and "| 10 % / 20 % / 30 % / 40 % |" in table


def test_nothing_is_said_where_there_is_one_way_or_an_older_log() -> None:
    rows = episodes("a", EITHER, "LR", way=None, changes_of_mind=None, between=None)
    summary = summarize(rows, ["a"], [EITHER], [], SHARES)
    assert "ways" not in summary and "Ways" not in markdown(summary)
    assert "ways" not in summarize(episodes("a", EITHER, "LR"), ["a"], [EITHER], [])


def test_evaluations_are_shown_where_they_are_counted() -> None:
    rows = [
        replace(row, evaluations=mean, chunks=chunks)
        for row, mean, chunks in zip(
            episodes("a", EITHER, "LRL"), (1.0, 2.5, None), (3, 1, 7), strict=True
        )
    ]
    rows += episodes("b", EITHER, "LRL")
    summary = summarize(rows, ["a", "b"], [EITHER], [])
    assert summary["policies"]["a"]["evaluations"] == pytest.approx(5.5 / 4)
    assert "evaluations" not in summary["policies"]["b"]
    head, _, first, second, *_ = markdown(summary).splitlines()[2:]
    assert [head.split("|")[-2].strip(), first.split("|")[-2].strip()] == ["evaluations", "1.4"]
    assert second.split("|")[-2].strip() == ""
    without = markdown(summarize([r for r in rows if r.policy == "b"], ["b"], [EITHER], []))
    assert "valuations" not in without


@pytest.mark.parametrize(("ways", "way", "changes"), [((0,), 0, 0), ((0, 1), 1, 1)])
def test_a_run_tells_the_way_that_was_gone(
    runner: Runner,
    monkeypatch: pytest.MonkeyPatch,
    ways: tuple[int, ...],
    way: int,
    changes: int,
) -> None:
    """Experts that take turns, one for each way; the tool is down at a cube after nine steps."""
    job = EpisodeJob("e0", EITHER, 3)
    monkeypatch.setattr(runner, "_act", experts_in_turn(ways))
    result = runner.run(Assignment(job, runner.settings))
    assert result.success
    assert (result.way, result.changes_of_mind, result.between) == (way, changes, False)
    assert result.stages == ["a cube held"]
    assert EpisodeResult.from_json(result.to_json()) == result


def test_a_run_tells_that_the_tool_was_between(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down_between(environment: Any, batch: Any, progress: Any) -> np.ndarray:
        progress.milliseconds.append(1.0)
        scene = Scene(environment.vector.envs[0].unwrapped)
        places = [scene.pose(name).position for name in ("left_cube", "right_cube")]
        action = np.zeros((1, 7), np.float32)
        move = np.mean(places, axis=0) + 0.03 * UP - scene.tool().position
        action[0, :3], action[0, 6] = (5 * move).clip(-0.5, 0.5), -1
        return action

    monkeypatch.setattr(runner, "_act", down_between)
    result = runner.run(Assignment(EpisodeJob("e0", EITHER, 3), runner.settings))
    assert (result.success, result.between, result.stages) == (False, True, [])


def experts_in_turn(ways: tuple[int, ...]) -> Callable[..., np.ndarray]:
    """In place of `Runner._act`: an expert for each way, the next one after nine steps."""
    experts: list[Expert] = []

    def act(environment: Any, batch: Any, progress: Any) -> np.ndarray:
        progress.milliseconds.append(1.0)
        if len(experts) < len(ways) and progress.steps == 9 * len(experts):
            experts.append(Expert(environment.vector.envs[0].unwrapped, ways[len(experts)]))
        return experts[-1].act()[None]

    return act


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    checkpoint: Path = save_policy(tmp_path_factory.mktemp("e0"), state_size=17)
    settings = EnvironmentSettings("maniskill", ("proprioception=compact", "state_only=true"))
    return Runner(RunnerSettings(checkpoint, settings))
