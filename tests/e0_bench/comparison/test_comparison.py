"""A whole comparison in small: resumed, extended, and refused where it would mix results."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from e0_bench.closed_loop.episodes import EpisodeLog
from e0_bench.comparison.command import compare
from e0_bench.comparison.comparison import (
    ComparisonSettings,
    comparison_markdown,
    demonstrations_alone,
    run_comparison,
)
from e0_bench.comparison.given import take_given
from e0_bench.comparison.kept_recipe import ComparisonMismatchError
from e0_bench.comparison.measuring import (
    benchmark_settings,
    policies_by_label,
    tuning_markdown,
    ways_tried,
)
from e0_bench.comparison.reading import read_recipe
from e0_bench.comparison.recipe import RecipeError
from e0_bench.doctor.reading import DatasetError
from e0_bench.report.command import ReportCommand, run_report
from e0_bench.training_run import trained_checkpoint
from e0_system.workers import Processes
from lerobot_policy_e0.splitting import DemonstrationsError
from lerobot_policy_e0.whole_dataset import MARKER, RECORD

RECIPE = """
[dataset]
tasks = ["PushCube-v1"]
episodes = 2
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
[pretraining]
steps = 1
policy.objective = "regression"
[policies.e0]
objective = "e0"
denoising_steps = 2
viewpoint_augmentation.embedding = true
[policies.regression]
objective = "regression"
[held_out]
episodes = 1
seed = 600_000
[benchmark]
episodes = 1
seed = 800_000
controls = ["delay=1"]
control_episodes = 1
[told]
policies = ["e0"]
"""
TUNING = """[decodings.e0]
own = {}
zero = { start = "zero", denoising_steps = 1 }
[tuning]
episodes = 1
seed = 700_000
"""
FLOW = '[policies.flow]\nobjective = "flow"\n'


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[ComparisonSettings, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("comparison")
    recipe = directory / "recipe.toml"
    recipe.write_text(RECIPE)
    settings = ComparisonSettings(recipe, directory / "out", Processes(workers=1))
    return settings, run_comparison(settings)


def test_every_policy_is_trained_and_measured(
    finished: tuple[ComparisonSettings, dict[str, Any]],
) -> None:
    settings, results = finished
    assert list(results["policies"]) == ["e0", "regression"]
    for row in results["policies"].values():
        assert row["parameters"] > 1e6
        assert row["training_seconds"] > 0
        assert 0 <= row["codes"] < 0.05 < row["error"], "two steps of training teach nothing"
        assert row["frames"] > 5
    lines = (settings.directory / "benchmark/episodes.jsonl").read_text().splitlines()
    names = ("policy", "seed", "control")
    assert sorted(tuple(json.loads(line)[name] for name in names) for line in lines) == [
        (policy, 800_000, control)
        for policy in ("e0", "regression")
        for control in ("delay=1", "none")
    ]
    (change,) = results["demonstrated_changes"].values()
    assert 0.05 < change < 1
    assert json.loads((settings.directory / "comparison.json").read_text()) == results
    assert list(results["benchmark"]["policies"]) == ["e0", "regression", "e0, told"]
    told = (settings.directory / "told/episodes.jsonl").read_text().splitlines()[0]
    assert json.loads(told)["seed"] == 800_000
    prefix = [
        json.loads(path.read_text())["policy"]["prefix_from"]
        for path in settings.directory.glob(
            "train/*/checkpoints/000002/pretrained_model/train_config.json"
        )
    ]
    pretrained = settings.directory / "pretrained/checkpoints/000001/pretrained_model"
    assert prefix == [str(pretrained)] * 2 and pretrained.is_dir()
    table = (settings.directory / "comparison.md").read_text()
    assert table == comparison_markdown(results)
    assert f"| regression | {results['policies']['regression']['parameters']:,} |" in table


def test_it_may_be_a_family_of_a_larger_table(
    finished: tuple[ComparisonSettings, dict[str, Any]], tmp_path: Path
) -> None:
    settings, results = finished
    shutil.copytree(settings.directory, tmp_path / "out" / "ManiSkill", symlinks=True)
    several = tmp_path / "all.toml"
    several.write_text(
        f'reference = "e0"\n[families.ManiSkill]\nrecipe = "{settings.recipe}"\n'
        'environments = ["PushCube-v1"]\n[families.VLABench]\nenvironments = ["select_fruit"]\n'
        'results = "elsewhere"\n'
    )
    told = compare(ComparisonSettings(several, tmp_path / "out"))
    assert "Over 1 of 2 environments, e0 is" in told
    table = json.loads((tmp_path / "out" / "families.json").read_text())
    rates = {row["policy"]: row["rate"] for row in results["benchmark"]["rates"]}
    assert table["means"]["regression"]["each"] == [rates["regression"]]
    page = run_report(ReportCommand(tmp_path / "out")).read_text()
    for text in ("PushCube-v1", "select_fruit", "Over 1 of 2 environments", "no pictures"):
        assert text in page
    assert page.count("Loss of") == 2 and "training.batch_size" in page
    log = EpisodeLog(tmp_path / "elsewhere" / "episodes.jsonl")
    log.path.parent.mkdir()
    first, *_ = EpisodeLog(settings.directory / "benchmark" / "episodes.jsonl").results.values()
    for policy, success in (("e0", True), ("regression", False)):
        own = replace(first, policy=policy, task="select_fruit", control="none", success=success)
        log.append(own)
    told = compare(ComparisonSettings(several, tmp_path / "out"))
    assert "Over 2 of 2 environments, e0 is" in told


@pytest.mark.slow
def test_a_further_policy_is_trained_alone(
    finished: tuple[ComparisonSettings, dict[str, Any]],
) -> None:
    settings, results = finished
    kept = [
        *settings.directory.glob("train/*/checkpoints/000002/pretrained_model/model.safetensors"),
        *settings.directory.glob("*/meta/collection.json"),
    ]
    assert len(kept) == 4
    before = [path.stat().st_mtime_ns for path in kept]
    longer = settings.recipe.with_name("longer.toml")
    longer.write_text(RECIPE + FLOW)
    extended = run_comparison(replace(settings, recipe=longer, output=settings.directory))
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert list(extended["policies"]) == ["e0", "regression", "flow"]
    for label, row in results["policies"].items():
        assert extended["policies"][label] == row, "the error is not measured with fixed noise"
    again = run_comparison(settings)
    assert again["policies"] == results["policies"]
    assert set(json.loads((settings.directory / "recipe.json").read_text())["policies"]) == {
        "e0",
        "regression",
        "flow",
    }


def test_parts_of_a_recipe_can_be_asked_for(
    finished: tuple[ComparisonSettings, dict[str, Any]],
) -> None:
    settings, _ = finished
    assert demonstrations_alone(settings) == {"PushCube-v1": 2}
    unknown = replace(settings, policies=("flow",))
    for run in (run_comparison, demonstrations_alone):
        with pytest.raises(RecipeError, match="unknown policy 'flow'; known: e0, regression"):
            run(unknown)


def test_demonstrations_that_are_given_are_cut_in_two(
    finished: tuple[ComparisonSettings, dict[str, Any]], tmp_path: Path
) -> None:
    given = finished[0].directory / "dataset"
    recipe, out = tmp_path / "given.toml", tmp_path / "out"
    text = RECIPE.replace("episodes = 2\nseed = 100_000\naction_noise = 0.1", f'root = "{given}"')
    recipe.write_text(text)
    settings = ComparisonSettings(recipe, out)
    assert demonstrations_alone(settings) == {str(given): 1}
    drawn = [json.loads((out / name / RECORD).read_text()) for name in ("dataset", "held_out")]
    assert sorted(drawn[0]["episodes"] + drawn[1]["episodes"]) == [0, 1]
    lengths = [frames_of(directory) for directory in (given, out / "dataset", out / "held_out")]
    assert lengths[0] == lengths[1] + lengths[2] and min(lengths) > 5
    written = (out / "dataset" / RECORD).stat().st_mtime_ns
    demonstrations_alone(settings)
    assert (out / "dataset" / RECORD).stat().st_mtime_ns == written
    mended = ComparisonSettings(recipe, tmp_path / "mended")
    seen = text.replace("seed = 800_000", "seed = 100_000")
    for changed, error, message in (
        (
            text.replace("episodes = 1\nseed = 6", "episodes = 2\nseed = 6"),
            DemonstrationsError,
            "has 2",
        ),
        (text.replace(str(given), "nowhere"), DatasetError, "no such directory: nowhere"),
        (seen, DemonstrationsError, r"from the seeds 100000 to .* on which \[benchmark\]"),
        (
            text.replace('"compact"', '"full"'),
            DemonstrationsError,
            "not fit PushCube-v1: it has",
        ),
    ):
        recipe.write_text(changed)
        with pytest.raises(error, match=message):
            demonstrations_alone(mended)
    assert not (mended.directory / "recipe.json").exists(), "another root would be refused"
    shutil.rmtree(out / "held_out")
    leftover = out / "held_out.partial" / "dataset"
    leftover.mkdir(parents=True)
    (leftover.parent / MARKER).touch()
    recipe.write_text(text)
    assert take_given(read_recipe(recipe), out) == {str(given): 1}
    assert frames_of(out / "held_out") == lengths[2]


def frames_of(dataset: Path) -> int:
    return json.loads((dataset / "meta/info.json").read_text())["total_frames"]


def test_results_of_other_policies_stay_where_they_are_whole(
    finished: tuple[ComparisonSettings, dict[str, Any]],
) -> None:
    settings, results = finished
    one = replace(settings, policies=("regression",))
    recipe = (settings.directory / "recipe.json").read_text()
    for name in ("benchmark", "told"):
        path = settings.directory / name / "episodes.jsonl"
        content = path.read_text()
        path.write_text("".join(line for line in content.splitlines(True) if '"e0"' not in line))
        alone = run_comparison(one)
        assert alone["policies"] == {"regression": results["policies"]["regression"]}, name
        assert list(alone["benchmark"]["policies"]) == ["regression"]
        path.write_text(content)
    again = run_comparison(one)
    assert again["policies"] == results["policies"]
    assert again["benchmark"]["rates"] == results["benchmark"]["rates"]
    assert json.loads((settings.directory / "comparison.json").read_text()) == again
    assert (settings.directory / "recipe.json").read_text() == recipe


def _decodings(rows: list[dict[str, Any]]) -> list[tuple[str, str, bool]]:
    return [(row["policy"], row["decoding"], row["chosen"]) for row in rows]


@pytest.mark.slow
def test_each_seed_is_a_training_with_an_encoding_of_its_own(
    finished: tuple[ComparisonSettings, dict[str, Any]], tmp_path: Path
) -> None:
    settings, _ = finished
    for name in ("dataset", "held_out"):
        shutil.copytree(settings.directory / name, tmp_path / "out" / name)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        RECIPE.replace('[policies.regression]\nobjective = "regression"\n', "")
        .replace("steps = 1", "steps = 1\naugmented = true")
        .replace("batch_size = 4", "batch_size = 4\nseeds = [1, 2]")
        .replace('[told]\npolicies = ["e0"]\n', TUNING)
        .replace('controls = ["delay=1"]\ncontrol_episodes = 1\n', "")
    )
    results = run_comparison(replace(settings, recipe=recipe, output=tmp_path / "out"))
    weights = []
    for label in ("e0-1", "e0-2"):
        pretrained = tmp_path / f"out/pretrained/{label}/checkpoints/000001/pretrained_model"
        config = json.loads((pretrained / "config.json").read_text())
        assert config["objective"] == "regression" and config["viewpoint_augmentation"]["embedding"]
        trained = tmp_path / f"out/train/{label}/checkpoints/000002/pretrained_model"
        run = json.loads((trained / "train_config.json").read_text())
        assert run["policy"]["prefix_from"] == str(pretrained)
        weights.append((trained / "model.safetensors").read_bytes())
    assert weights[0] != weights[1]
    assert results["trainings"]["policies"] == {"e0-1": "e0", "e0-2": "e0"}
    (row,) = results["trainings"]["rows"]
    assert [row["policy"], len(row["rates"]), row["episodes"]] == ["e0", 2, 1]
    assert (tmp_path / "out/comparison.md").read_text().startswith("## Over trainings")
    assert (tmp_path / "out/trainings.png").read_bytes().startswith(b"\x89PNG")
    _check_decodings(results, recipe, tmp_path / "out")


def _check_decodings(results: dict[str, Any], recipe: Path, out: Path) -> None:
    """A policy is measured in the way to decode that was best over its trainings, elsewhere."""
    assert _decodings(results["benchmark"]["decodings"]) == [
        ("e0", "own", True),
        ("e0", "zero", False),
    ]
    assert list(results["benchmark"]["policies"]) == ["e0-1", "e0-2"]
    rows = [
        json.loads(line) for line in (out / "benchmark/episodes.jsonl").read_text().splitlines()
    ]
    assert {(row["policy"], row["seed"]) for row in rows} == {
        ("e0-1-own", 800_000),
        ("e0-2-own", 800_000),
    }
    log = out / "tuning/episodes.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == 4 and {row["seed"] for row in rows} == {700_000}
    log.write_text(
        "".join(json.dumps(row | {"success": row["policy"] == "e0-2-zero"}) + "\n" for row in rows)
    )
    checked, checkpoints = read_recipe(recipe), {}
    for label in ("e0-1", "e0-2"):
        checkpoints[label] = trained_checkpoint(out / "train" / label, 2)
    second = ways_tried(checked, benchmark_settings(checked, out, checkpoints, 1))
    assert _decodings(second) == [("e0", "own", False), ("e0", "zero", True)]
    assert "| e0 | zero, **chosen** | denoising_steps 1, start zero | 1 of 2 |" in " ".join(
        tuning_markdown(second).split()
    )
    record = json.loads((out / "tuning/benchmark.json").read_text())
    assert record["policies"]["e0-1-zero"]["decoding"] == {"denoising_steps": 1, "start": "zero"}
    assert "## Ways to decode" in (out / "comparison.md").read_text()


def test_a_training_that_was_told_is_one_of_a_policy_that_was_told(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace("batch_size = 4", "batch_size = 4\nseeds = [1, 2]"))
    assert policies_by_label(read_recipe(path)) == {
        "e0-1": "e0",
        "e0-2": "e0",
        "regression-1": "regression",
        "regression-2": "regression",
        "e0-1, told": "e0, told",
        "e0-2, told": "e0, told",
    }


def test_another_recipe_is_refused(
    finished: tuple[ComparisonSettings, dict[str, Any]], tmp_path: Path
) -> None:
    settings, _ = finished
    other = tmp_path / "other.toml"
    other.write_text(RECIPE.replace("steps = 2\nbatch", "steps = 3\nbatch"))
    with pytest.raises(ComparisonMismatchError, match="a recipe with another training"):
        run_comparison(replace(settings, recipe=other, output=settings.directory))
