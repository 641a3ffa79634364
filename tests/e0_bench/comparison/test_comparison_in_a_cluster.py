"""A whole comparison over a cluster, one of whose nodes is lost: the same as on one machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from e0_bench.closed_loop.episodes import EpisodeLog
from e0_bench.comparison.comparison import ComparisonSettings, run_comparison
from e0_experts import collection
from e0_system.workers import Processes
from ray_cluster import two_nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RECIPE = """
[dataset]
tasks = ["PushCube-v1"]
episodes = 3
seed = 100_000
action_noise = 0.1
[environment]
proprioception = "compact"
state_only = true
[training]
steps = 2
batch_size = 4
[training.policy]
device = "cpu"
[policies.e0]
objective = "e0"
denoising_steps = 2
[policies.regression]
objective = "regression"
[held_out]
episodes = 1
seed = 600_000
[benchmark]
episodes = 2
seed = 800_000
"""


def test_it_is_the_same_whatever_ran_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    here = run_comparison(ComparisonSettings(recipe, tmp_path / "here"))
    with two_nodes(monkeypatch, python_path=Path(__file__).parent) as nodes:
        lost: list[str] = []
        began = collection._wait_for_file

        def lose_a_node(path: Path) -> None:
            began(path)
            if not lost:
                lost.append(path.name)
                nodes.remove_node(nodes.other, allow_graceful=False)

        monkeypatch.setattr(collection, "_wait_for_file", lose_a_node)
        processes = Processes(2, cluster=nodes.address)
        there = run_comparison(ComparisonSettings(recipe, tmp_path / "there", processes))
    assert lost
    record = "dataset/meta/collection.json"
    assert read(tmp_path / "here" / record) == read(tmp_path / "there" / record)
    assert steps(tmp_path / "here") == steps(tmp_path / "there")
    for label, row in here["policies"].items():
        assert there["policies"][label]["error"] == pytest.approx(row["error"], rel=1e-4)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def steps(output: Path) -> dict[Any, tuple[int, bool]]:
    results = EpisodeLog(output / "benchmark" / "episodes.jsonl").results
    assert len(results) == 4
    return {job: (result.steps, result.success) for job, result in results.items()}
