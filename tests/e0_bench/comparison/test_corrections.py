"""Policies that are corrected and trained on: with their own corrections, or as long without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from e0_bench.comparison import comparison
from e0_bench.comparison.comparison import ComparisonSettings, run_comparison
from e0_bench.comparison.corrections import _join, final_checkpoint, trainings_of
from e0_bench.comparison.reading import read_recipe
from e0_bench.comparison.recipe import Training
from e0_maniskill.demonstrations import ManiSkillSettings
from e0_system.workers import Processes
from lerobot_policy_e0.collection import CollectionRequest, collect_dataset

RECIPE = """
[dataset]
tasks = ["StackCube-v1"]
episodes = 3
seed = 100_000
action_noise = 0.2
[environment]
proprioception = "compact"
state_only = true
[training]
steps = 3
batch_size = 4
[training.policy]
device = "cpu"
denoising_steps = 1
[corrections]
episodes = [1]
seed = 2_000_000
steps = 2
rounds = 2
policies = ["e0"]
[policies.e0]
objective = "e0"
[policies.regression]
objective = "regression"
[held_out]
episodes = 1
seed = 600_000
[benchmark]
episodes = 1
seed = 800_000
"""


@pytest.fixture
def settings(tmp_path: Path) -> ComparisonSettings:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    return ComparisonSettings(recipe, tmp_path / "out")


def test_every_training_goes_on_for_as_many_steps(settings: ComparisonSettings) -> None:
    recipe, out = read_recipe(settings.recipe), settings.directory
    assert recipe.rounds == 2 and recipe.corrected_policies == ["e0"]
    assert trainings_of(recipe, out, "regression") == [
        (out / "train/regression", 3),
        (out / "corrected/1/regression", 2),
        (out / "corrected/2/regression", 2),
    ]
    assert final_checkpoint(recipe, out, "regression") is None
    first, second = (recipe.corrections_of(number) for number in (1, 2))
    assert first["episodes"] == [1] and first["action_noise"] == 0.2
    assert first["seed"] == 2_000_000 and second["seed"] >= 2_000_010, "other episodes"


def test_demonstrations_and_all_corrections_so_far_are_joined(tmp_path: Path) -> None:
    training = Training("e0")
    parts = ("dataset", "corrections/1/e0", "corrections/2/e0", "corrections/2/other")
    settings = ManiSkillSettings(state_only=True)
    for part, episodes, seed in ((parts[0], 2, 0), (parts[1], 1, 10)):
        request = CollectionRequest(("PushCube-v1",), episodes, seed, settings)
        collect_dataset(request, tmp_path / part, processes=Processes(1))
    for part in parts[2:]:
        shutil.copytree(tmp_path / parts[1], tmp_path / part)
    _join(tmp_path, 2, training)
    joined = tmp_path / "joined/2/e0"
    lengths = [episode_lengths(tmp_path / part) for part in parts[:3]]
    assert episode_lengths(joined) == [length for own in lengths for length in own]
    actions = [actions_of(tmp_path / part) for part in parts[:3]]
    np.testing.assert_array_equal(actions_of(joined), np.concatenate(actions))
    assert [path.name for path in joined.parent.iterdir()] == ["e0"], "no drafts are left"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_corrections_of_each_training_are_learned_by_it_alone(
    settings: ComparisonSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = settings.directory
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_comparison(settings)
    shutil.rmtree(out / "corrected/2/e0")
    results = run_comparison(settings)
    assert list(results["policies"]) == ["e0", "regression"]
    for label in results["policies"]:
        for number, before in ((1, out / "train"), (2, out / "corrected/1")):
            config = began_with(out / "corrected" / str(number) / label)
            goes_on_from = (before / label / "checkpoints").resolve()
            assert goes_on_from in Path(config["policy"]["pretrained_path"]).resolve().parents
            own = {"e0": f"joined/{number}/e0", "regression": "dataset"}[label]
            assert Path(config["dataset"]["root"]) == out / own
    collected = {path.parents[1].name for path in out.glob("corrections/*/*/meta/collection.json")}
    assert collected == {"e0"}
    assert len(episode_lengths(out / "corrections/1/e0")) == 1
    assert not list(out.glob("joined/*")), "copies are removed"


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def began_with(training: Path) -> dict[str, Any]:
    return json.loads(training.with_name(f"{training.name}.json").read_text())


def actions_of(dataset: Path) -> np.ndarray:
    files = sorted((dataset / "data").rglob("*.parquet"))
    return np.concatenate([np.stack(pq.read_table(file)["action"].to_numpy()) for file in files])


def episode_lengths(dataset: Path) -> list[int]:
    files = sorted((dataset / "meta/episodes").rglob("*.parquet"))
    return [length for file in files for length in pq.read_table(file)["length"].to_pylist()]
