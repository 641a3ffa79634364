"""The page of a benchmark or a comparison: every number of the table, clips that show what was
counted, and errors that say what is missing."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from e0_bench.closed_loop import benchmark
from e0_bench.closed_loop.benchmark import run_benchmark
from e0_bench.closed_loop.episodes import EpisodeLog
from e0_bench.closed_loop.settings import BenchmarkSettings
from e0_bench.report import clips
from e0_bench.report.command import ReportCommand, run_report
from e0_bench.report.reading import ReportError, read_results
from made_checkpoints import save_policy

PUSH = "PushCube-v1"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy decoded in two ways, with pictures."""
    root = tmp_path_factory.mktemp("report")
    settings = BenchmarkSettings(
        checkpoints=(save_policy(root / "e0", 3, 64),),
        tasks=(PUSH,),
        out=root / "out",
        episodes=2,
        seed=900_000,
        env_options=("proprioception=compact", "image_size=64", "episode_length=4"),
        controls=("blackout",),
        control_episodes=1,
        decodings=("mine:", "one:start=zero,denoising_steps=1"),
    )
    with pytest.MonkeyPatch.context() as patch:
        in_a_thread(patch)
        run_benchmark(settings)
    return settings.out


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    in_a_thread(monkeypatch)


def in_a_thread(patch: pytest.MonkeyPatch) -> None:
    """No process has to start."""
    for module in (benchmark, clips):
        patch.setattr(module, "episode_pool", lambda *_: ThreadPoolExecutor(1))


def test_the_page_shows_what_was_measured_and_clips_of_it(
    measured: Path, tmp_path: Path, in_this_process: None
) -> None:
    page = run_report(ReportCommand(measured, tmp_path / "page"))
    text = page.read_text()
    summary = json.loads((measured / "summary.json").read_text())
    for row in summary["rates"]:
        if row["control"] == "none" and row["task"] == PUSH:
            bounds = f"({100 * row['low']:.0f}–{100 * row['high']:.0f}), n = 2"
            assert f"{100 * row['rate']:.0f} % {bounds}" in text
    assert "black images" in text and "e0-one" in text
    files = re.findall(r'<img loading="lazy" src="([^"]*)"', text)
    assert len(files) == 2, "of each policy one: with 4 steps all episodes fail"
    for file in files:
        assert f"{PUSH}-900000.webp" in file
        with Image.open(page.parent / file) as clip:
            assert getattr(clip, "n_frames", 1) >= 2
            assert np.asarray(clip.convert("RGB")).std() > 10, "not black"
    assert "ended otherwise" not in text
    assert not re.search(r'(?:src|href)="(?!clips/|data:|#)', text), "nothing from elsewhere"


def test_clips_are_recorded_once_and_told_where_they_end_otherwise(
    measured: Path, tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ReportCommand(measured, tmp_path / "page")
    page = run_report(command)
    (log,) = (page.parent / "clips").glob("*/episodes.jsonl")
    monkeypatch.setattr(clips, "evaluate", None)  # would be called for what is missing
    run_report(command)
    first, *others = EpisodeLog(log).results.values()
    log.unlink()
    changed = EpisodeLog(log)
    for result in (replace(first, success=not first.success), *others):
        changed.append(result)
    assert run_report(command).read_text().count("the recorded one ended otherwise") == 1


def test_what_is_missing_is_named(measured: Path, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"holds no results: expected families\.json"):
        run_report(ReportCommand(tmp_path / "nothing"))
    moved = tmp_path / "out"
    shutil.copytree(measured, moved)
    record = json.loads((moved / "benchmark.json").read_text())
    for row in record["policies"].values():
        row["checkpoint"] = str(tmp_path / "gone")
    (moved / "benchmark.json").write_text(json.dumps(record))
    with pytest.raises(ReportError, match="gone, which is not there any more: put it back, or"):
        run_report(ReportCommand(moved))
    assert "clips/" not in run_report(ReportCommand(moved, clips=0)).read_text()
    (moved / "episodes.jsonl").unlink()
    with pytest.raises(ReportError, match=r"episodes\.jsonl is not there any more"):
        read_results(moved)
