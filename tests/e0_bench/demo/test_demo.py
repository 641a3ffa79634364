"""The demo from nothing to its report, in small: a killed run is continued, a finished one kept."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from e0_bench.demo.demo import DemoMismatchError, run_demo
from e0_bench.demo.settings import EVALUATION_SEED, DemoSettings
from lerobot_policy_e0.training import LEARNING_CURVE, read_learning_curve

TASK = "PushCube-v1"
SMALL = DemoSettings(
    tasks=(TASK,),
    demonstrations=(2,),
    training_steps=40,
    batch_size=4,
    evaluation_episodes=2,
    blackout_episodes=1,
    denoising_steps=2,
    workers=1,
)
FLAGS = [
    f"--tasks={TASK}",
    "--demonstrations=2",
    "--training-steps=40",
    "--batch-size=4",
    "--evaluation-episodes=2",
    "--blackout-episodes=1",
    "--denoising-steps=2",
    "--workers=1",
]
EXPENSIVE = ("dataset/meta/collection.json", "train.log", "evaluation/episodes.jsonl")


def kill_in_training(output: Path) -> Path:
    """Start the demo as a user would and kill all of it after its first checkpoint; which."""
    process = subprocess.Popen(
        [sys.executable, "-m", "e0_bench.cli", "demo", f"--output={output}", *FLAGS],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    last = output / "train" / "checkpoints" / "last"
    deadline = time.monotonic() + 300
    while not last.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"no checkpoint: {process.communicate()[0].decode()[-2000:]}")
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return last.resolve()


@pytest.fixture(scope="module")
def finished(
    rendering: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DemoSettings, dict[str, Any]]:
    """A demo that was killed in training and run again."""
    settings = replace(SMALL, output=tmp_path_factory.mktemp("demo") / "out")
    checkpoint = kill_in_training(settings.output)
    assert int(checkpoint.name) < SMALL.training_steps, "the kill came too late to test anything"
    weights = checkpoint / "pretrained_model" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    results = run_demo(settings)
    assert weights.stat().st_mtime_ns == written, "the training began anew"
    return settings, results


def assert_schema(results: dict[str, Any], *, state_only: bool) -> None:
    """Exactly the documented keys, with values of the documented kind."""
    assert set(results) == {
        "tasks",
        "decoding",
        "evaluations",
        "seconds",
        "peak_rss_mb",
        "chunk_latency_ms",
        "data_loading_share",
        "state_only",
    }
    assert set(results["tasks"]) == {TASK}
    task = results["tasks"][TASK]
    assert set(task) == {
        "successes",
        "episodes",
        "seeds",
        "blackout_successes",
        "blackout_episodes",
    }
    assert 0 <= task["successes"] <= task["episodes"] == len(task["seeds"])
    assert task["blackout_episodes"] == (0 if state_only else SMALL.blackout_episodes)
    assert results["decoding"] == "adaptive"
    assert 1 <= results["evaluations"] <= 1 + SMALL.denoising_steps
    seconds = results["seconds"]
    assert set(seconds) == {"collect", "train", "evaluate", "total"}
    phases = (seconds["collect"], seconds["train"], seconds["evaluate"])
    assert seconds["total"] == pytest.approx(sum(phases))
    assert min(phases) > 0
    assert 100 < results["peak_rss_mb"] < 100_000
    latency = results["chunk_latency_ms"]
    assert set(latency) == {"median", "p95", "n"}
    assert 0 < latency["median"] <= latency["p95"]
    assert latency["n"] == 200
    assert 0 < results["data_loading_share"] < 1
    assert results["state_only"] is state_only


def assert_self_contained(page: str) -> None:
    """The page loads nothing: every address in it is data or a place in the page itself."""
    addresses = re.findall(r"""(?:src|href|srcset|action|data)\s*=\s*["']([^"']*)""", page)
    addresses += re.findall(r"""url\(\s*["']?([^"')]*)""", page)
    assert [address[:60] for address in addresses if not address.startswith(("data:", "#"))] == []
    assert not re.search(r"<script|<link|<iframe|@import", page)
    assert page.rstrip().endswith("</html>")


def test_killed_demo_is_finished_by_the_next_run(
    finished: tuple[DemoSettings, dict[str, Any]],
) -> None:
    settings, results = finished
    assert json.loads((settings.output / "results.json").read_text()) == results
    assert_schema(results, state_only=False)
    curve = read_learning_curve(settings.output / "train" / LEARNING_CURVE)
    assert [row["step"] for row in curve] == list(range(2, SMALL.training_steps + 1, 2))
    evaluation = settings.output / "evaluation"
    lines = (evaluation / "episodes.jsonl").read_text().splitlines()
    episodes = [json.loads(line) for line in lines]
    assert sorted(episode["control"] for episode in episodes) == ["blackout", "none", "none"]
    seeds = [episode["seed"] for episode in episodes if episode["control"] == "none"]
    assert sorted(seeds) == sorted(results["tasks"][TASK]["seeds"])
    collected = json.loads((settings.output / "dataset/meta/collection.json").read_text())
    assert not set(seeds) & set(collected["collected"][TASK]["seeds"])
    clips = {path.name for path in (evaluation / "clips").iterdir()}
    assert {f"{TASK}-{EVALUATION_SEED}{of}.webp" for of in ("", "-blackout")} <= clips
    page = (settings.output / "report.html").read_text()
    assert_self_contained(page)
    for text in (TASK, "data:image/webp;base64,", "data:image/png;base64,"):
        assert text in page
    assert (settings.output / "success.png").read_bytes()[:4] == b"\x89PNG"


def test_finished_demo_is_not_run_again(finished: tuple[DemoSettings, dict[str, Any]]) -> None:
    settings, results = finished
    before = [(settings.output / name).stat().st_mtime_ns for name in EXPENSIVE]
    again = run_demo(settings)
    assert [(settings.output / name).stat().st_mtime_ns for name in EXPENSIVE] == before
    assert again["tasks"] == results["tasks"]
    assert again["seconds"]["total"] - results["seconds"]["total"] < 3
    assert again["peak_rss_mb"] >= results["peak_rss_mb"], "what earlier runs needed is forgotten"


@pytest.mark.parametrize(
    "change", [{"training_steps": 41}, {"action_noise": 0.2}, {"tasks": ("PickCube-v1",)}]
)
def test_other_settings_are_refused(
    change: dict[str, Any], finished: tuple[DemoSettings, dict[str, Any]]
) -> None:
    settings, _ = finished
    with pytest.raises(DemoMismatchError, match=f"a demo with another {next(iter(change))};"):
        run_demo(replace(settings, **change))
    assert json.loads((settings.output / "settings.json").read_text())["training_steps"] == 40


@pytest.mark.slow
def test_demo_without_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E0_STATE_ONLY", "1")
    settings = replace(SMALL, output=tmp_path / "out", demonstrations=(1,), training_steps=2)
    results = run_demo(replace(settings, evaluation_episodes=1))
    assert_schema(results, state_only=True)
    assert_self_contained((tmp_path / "out" / "report.html").read_text())
