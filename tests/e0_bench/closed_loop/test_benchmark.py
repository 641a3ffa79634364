"""The benchmark runner: the same episodes for every policy, kept through kills and extensions."""

import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from e0_bench.closed_loop import benchmark
from e0_bench.closed_loop.benchmark import read_episodes, run_benchmark
from e0_bench.closed_loop.checkpoints import BenchmarkCheckpointError
from e0_bench.closed_loop.environments import UnknownEnvironmentError
from e0_bench.closed_loop.episodes import EpisodeJob, EpisodeLogError, EpisodeResult
from e0_bench.closed_loop.parallel import (
    EpisodeError,
    comparable_jobs,
)
from e0_bench.closed_loop.record import BenchmarkMismatchError
from e0_bench.closed_loop.settings import BenchmarkSettings, BenchmarkSettingsError
from e0_system import locks
from e0_system.workers import Processes, WorkerLostError
from made_checkpoints import save_act, save_policy

PUSH, PICK = "PushCube-v1", "PickCube-v1"
OPTIONS = ("proprioception=compact", "state_only=true", "episode_length=5")
RESULTS = ("summary.json", "table.md", "success.png", "calibration.png")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> BenchmarkSettings:
    root = tmp_path_factory.mktemp("benchmark")
    return BenchmarkSettings(
        checkpoints=(save_policy(root / "e0", 17), save_act(root / "act", 17)),
        tasks=(PUSH, PICK),
        out=root / "out",
        episodes=2,
        seed=900_000,
        env_options=OPTIONS,
        controls=("instruction",),
        control_episodes=1,
    )


@pytest.fixture(scope="module")
def summary(settings: BenchmarkSettings) -> dict[str, Any]:
    return run_benchmark(settings)


def episodes(out: Path) -> list[EpisodeResult]:
    """What the log holds, in the order of jobs, without what differs every time."""
    lines = (out / "episodes.jsonl").read_text().splitlines()
    results = [replace(EpisodeResult.from_json(line), latency_ms=0.0) for line in lines]
    return sorted(results, key=lambda r: (r.policy, r.task, r.control, r.seed))


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_every_policy_meets_the_same_episodes(
    settings: BenchmarkSettings, summary: dict[str, Any]
) -> None:
    kept = episodes(settings.out)
    by_policy = {
        name: [(r.task, r.control, r.seed, r.instruction) for r in kept if r.policy == name]
        for name in ("e0", "act")
    }
    assert by_policy["e0"] == by_policy["act"]
    assert [entry[1:3] for entry in by_policy["e0"]] == 2 * [
        ("instruction", 900_000),
        ("none", 900_000),
        ("none", 900_001),
    ]
    told = {(task, control): text for task, control, _, text in by_policy["e0"]}
    assert told[PUSH, "instruction"] == told[PICK, "none"]
    assert told[PICK, "instruction"] == told[PUSH, "none"]
    assert all((r.entropy != []) == (r.policy == "e0") for r in kept)
    assert set(summary["calibration"]) == {"e0"}
    assert json.loads((settings.out / "summary.json").read_text()) == summary
    record = json.loads((settings.out / "benchmark.json").read_text())
    assert {label: entry["type"] for label, entry in record["policies"].items()} == {
        "e0": "e0",
        "act": "act",
    }
    assert record["environment"]["options"] == {
        "proprioception": "compact",
        "state_only": True,
        "episode_length": 5,
    }
    assert set(RESULTS) < set(content(settings.out))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes run in a thread: no process has to start."""
    monkeypatch.setattr(benchmark, "episode_pool", lambda *_: ThreadPoolExecutor(1))


def test_killed_run_goes_on_and_may_be_extended(
    settings: BenchmarkSettings, summary: dict[str, Any], tmp_path: Path, in_this_process: None
) -> None:
    """Lines lost to a kill come back as other processes wrote them; more is added."""
    out = tmp_path / "out"
    shutil.copytree(settings.out, out)
    lines = (out / "episodes.jsonl").read_text().splitlines(keepends=True)
    (out / "episodes.jsonl").write_text("".join(lines[:7]) + lines[7][:-25])
    another = save_policy(tmp_path / "another", 17, seed=1)
    more = replace(settings, out=out, episodes=3, checkpoints=(*settings.checkpoints, another))
    extended = run_benchmark(more)
    kept = episodes(out)
    assert len({result.job for result in kept}) == len(kept) == 3 * 2 * (3 + 1)
    before = episodes(settings.out)
    assert [r for r in kept if r.policy != "another" and r.seed < 900_002] == before
    assert (out / "episodes.jsonl").read_text().startswith("".join(lines[:7]))
    assert list(extended["policies"]) == ["e0", "act", "another"]
    assert {(r["policy"], r["episodes"]) for r in extended["rates"] if r["task"] == PICK} == {
        (name, count) for name in ("e0", "act", "another") for count in (3, 1)
    }


def test_a_suite_and_one_of_its_tasks_are_not_counted_twice(settings: BenchmarkSettings) -> None:
    tasks = {"libero_10": ["libero_10/0", "libero_10/1"], "libero_10/1": ["libero_10/1"]}
    both = replace(settings, tasks=tuple(tasks))
    with pytest.raises(BenchmarkSettingsError, match="names libero_10/1 twice: a suite holds"):
        benchmark.asked_episodes(both, ["e0"], tasks)


class LosingPool(ThreadPoolExecutor):
    """Loses an episode as a process that hangs does."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        job = getattr(args[0], "job", None)
        if job is not None and (job.policy, job.seed) == ("act", 900_002):
            lost: Future[Any] = Future()
            lost.set_exception(WorkerLostError("it hung"))
            return lost
        return super().submit(fn, *args, **kwargs)


def test_an_episode_that_fails_to_run_is_no_failure_of_its_policy(
    settings: BenchmarkSettings,
    summary: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    shutil.copytree(settings.out, out)
    monkeypatch.setattr(benchmark, "episode_pool", lambda *_: LosingPool(1))
    more = replace(settings, out=out, episodes=3, tasks=(PUSH,), controls=())
    found = run_benchmark(more)
    assert {(row["policy"], row["episodes"]) for row in found["rates"]} == {("e0", 2), ("act", 2)}
    assert found["comparisons"][0]["n"] == 2
    told = {"policy": "act", "task": PUSH, "seed": 900_002, "control": "none", "why": "it hung"}
    assert found["failed_to_run"] == [told]
    assert json.loads((out / "summary.json").read_text()) == found
    assert "act, PushCube-v1, 900002, none (it hung)" in (out / "table.md").read_text()
    assert not any((r.policy, r.seed) == ("act", 900_002) for r in episodes(out))
    with pytest.raises(EpisodeError, match=r"1 of the episodes failed to run, such as .*900002"):
        read_episodes(more)
    alone = replace(more, out=tmp_path / "alone", seed=900_002, episodes=1)
    with pytest.raises(EpisodeError, match="failed to run"):
        run_benchmark(alone)
    monkeypatch.setattr(benchmark, "episode_pool", lambda *_: ThreadPoolExecutor(1))
    again = run_benchmark(more)
    assert {(row["policy"], row["episodes"]) for row in again["rates"]} == {("e0", 3), ("act", 3)}
    assert "failed_to_run" not in again


def test_an_episode_is_comparable_where_all_policies_ran_it_also_as_usual() -> None:
    jobs = [
        EpisodeJob(policy, PUSH, seed, control)
        for policy in ("a", "b")
        for seed in (1, 2, 3)
        for control in ("none", "blackout")
    ]
    lost = {EpisodeJob("a", PUSH, 1): "", EpisodeJob("b", PUSH, 2, "blackout"): ""}
    kept = {(job.policy, job.seed, job.control) for job in comparable_jobs(jobs, lost)}
    by_both = {(2, "none"), (3, "none"), (3, "blackout")}
    assert kept == {(policy, *rest) for policy in ("a", "b") for rest in by_both}


def test_finished_run_runs_nothing(
    settings: BenchmarkSettings, summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "episode_pool", None)
    before = content(settings.out)
    assert run_benchmark(settings) == summary
    assert content(settings.out) == before
    one = run_benchmark(replace(settings, checkpoints=settings.checkpoints[:1], episodes=1))
    assert {row["policy"] for row in one["rates"]} == {"e0"}
    assert one["comparisons"] == []
    run_benchmark(settings)
    assert content(settings.out) == before


def test_another_benchmark_in_the_directory_is_refused(
    settings: BenchmarkSettings, summary: dict[str, Any], tmp_path: Path
) -> None:
    other = save_policy(tmp_path / "other", 17, seed=1)
    before = content(settings.out)
    for change, message in (
        ({"seed": 900_100}, "another seed: 900000, not 900100"),
        ({"env_options": (*OPTIONS[:2], "episode_length=6")}, "another environment: .*6"),
        (
            {"checkpoints": (other,), "labels": ("e0",)},
            "episodes of another policy 'e0': model.safetensors of .*other differ",
        ),
    ):
        with pytest.raises(BenchmarkMismatchError, match=message):
            run_benchmark(replace(settings, **change))
    assert content(settings.out) == before


def test_foreign_episodes_are_refused_and_left_alone(
    settings: BenchmarkSettings, summary: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    own = (settings.out / "episodes.jsonl").read_text()
    (out / "episodes.jsonl").write_text(own + '{"cut')
    with pytest.raises(BenchmarkMismatchError, match="of another run, without a benchmark"):
        run_benchmark(replace(settings, out=out))
    shutil.copy(settings.out / "benchmark.json", out)
    (out / "episodes.jsonl").write_text(own.replace('"act"', '"stranger"') + '{"cut')
    with pytest.raises(BenchmarkMismatchError, match=r"an episode of another run .*stranger"):
        run_benchmark(replace(settings, out=out))
    assert (out / "episodes.jsonl").read_text().endswith('{"cut')
    (out / "episodes.jsonl").write_text(own[:50] + "\n")
    with pytest.raises(EpisodeLogError, match="line 1"):
        run_benchmark(replace(settings, out=out))
    (out / "episodes.jsonl").write_text(own[:50] + "\n" + own)
    assert run_benchmark(replace(settings, out=out))["rates"] == summary["rates"]
    (out / "benchmark.json").write_text("[]")
    with pytest.raises(BenchmarkMismatchError, match="does not describe a benchmark"):
        run_benchmark(replace(settings, out=out))


def test_a_second_benchmark_in_the_directory_is_refused(
    settings: BenchmarkSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.0)
    with (
        locks.own_directory(tmp_path),
        pytest.raises(locks.DirectoryInUseError, match=f"process {os.getpid()} on .* {tmp_path}"),
    ):
        run_benchmark(replace(settings, out=tmp_path))


def test_what_cannot_run_is_said_before_an_episode_runs(
    settings: BenchmarkSettings, tmp_path: Path, in_this_process: None
) -> None:
    new = replace(settings, out=tmp_path / "out", controls=())
    for change, error, message in (
        ({"tasks": ("PushCub-v1",)}, UnknownEnvironmentError, "Did you mean 'PushCube-v1'"),
        ({"env": "moon"}, UnknownEnvironmentError, "type 'moon'; known: .*maniskill"),
        ({"env_options": ("size=3",)}, UnknownEnvironmentError, "size"),
        ({"env_options": ("state_only=maybe",)}, UnknownEnvironmentError, "maybe"),
        ({"env_options": ("state_only",)}, UnknownEnvironmentError, "name=value"),
        ({"env": "pusht", "env_options": (), "tasks": ("PushT-v0",)},
         UnknownEnvironmentError, "cannot make task 'PushT-v0': ModuleNotFoundError.*gym_pusht"),
        ({"decodings": ("two:denoising_steps=2",)}, BenchmarkCheckpointError,
         "E0 policies; 'act' is of type 'act'"),
        ({"checkpoints": settings.checkpoints[:1], "labels": ("e0",),
          "decodings": ("odd:start=one",)}, BenchmarkSettingsError, "unknown start 'one'"),
        ({"checkpoints": settings.checkpoints[:1], "labels": ("e0",),
          "decodings": ("odd:remask=true",)}, BenchmarkSettingsError,
         "sets remask, which objective=e0 does not look at"),
        ({"checkpoints": settings.checkpoints[:1], "labels": ("e0",),
          "decodings": ("odd:decoding=adaptive,start=zero",)}, BenchmarkSettingsError,
         "sets start, which decoding=adaptive does not look at"),
        ({"checkpoints": settings.checkpoints[:1], "labels": ("e0",),
          "decodings": ("odd:decoding_draws=4",)}, BenchmarkSettingsError,
         "sets decoding_draws, which decoding=fixed does not look at"),
        ({"env_options": ("state_only=true",)}, BenchmarkCheckpointError,
         r"does not fit PushCube-v1: it has .*state \(4,\).*offers .*state \(16,\)"),
        ({"controls": ("instruction",), "tasks": (PUSH,)}, BenchmarkSettingsError,
         "only .*push the blue cube"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            run_benchmark(replace(new, **change))
    assert not new.out.exists()


def test_policies_are_decoded_in_several_ways(
    settings: BenchmarkSettings, tmp_path: Path, in_this_process: None
) -> None:
    ways = ("mine:", "two:start=zero,denoising_steps=2", "median:start=zero,read_out=median")
    several = replace(
        settings,
        out=tmp_path,
        checkpoints=settings.checkpoints[:1],
        labels=("e0",),
        tasks=(PUSH,),
        controls=(),
        processes=Processes(1),
        decodings=ways,
    )
    run_benchmark(replace(several, decodings=ways[:2]))
    summary = run_benchmark(several)
    labels = ["e0-mine", "e0-two", "e0-median"]
    assert list(summary["benchmark"]["policies"]) == labels
    decodings = [row.get("decoding") for row in summary["benchmark"]["policies"].values()]
    assert decodings[1] == {"start": "zero", "denoising_steps": 2}
    returns = {label: [] for label in labels}
    for episode in episodes(tmp_path):
        returns[episode.policy].append(episode.total_reward)
    assert len({tuple(rewards) for rewards in returns.values()}) == 3
    before = content(tmp_path)
    with pytest.raises(BenchmarkMismatchError, match=r"'e0-two' decoded by .*zero.*, not .*noise"):
        run_benchmark(replace(several, decodings=("two:start=noise,denoising_steps=2",)))
    assert content(tmp_path) == before


@pytest.mark.slow
def test_a_control_may_change_the_environment(settings: BenchmarkSettings, tmp_path: Path) -> None:
    control = "episode_length=3 tell_camera_shift=true"
    changed = replace(
        settings, out=tmp_path, tasks=(PUSH,), controls=(control,), processes=Processes(1)
    )
    summary = run_benchmark(changed)
    steps = {(r.policy, r.control, r.seed): r.steps for r in episodes(tmp_path)}
    for policy in ("e0", "act"):
        assert steps[policy, "none", 900_000] == 5
        assert steps[policy, control, 900_000] == 3
    assert {row["second"] for row in summary["controls"]} == {control}
    with pytest.raises(UnknownEnvironmentError, match="how_long"):
        run_benchmark(replace(changed, controls=("how_long=3",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"controls": ("darkness",)},
            "unknown control 'darkness': either blackout or instruction, or",
        ),
        ({"episodes": 0}, "episodes must be at least 1, not 0"),
        ({"control_episodes": 0}, "control_episodes"),
        ({"episode_seconds": 0}, "episode_seconds"),
        ({"decodings": ("two",)}, "a decoding is NAME:SETTING=VALUE"),
        ({"decodings": ("two:steps=2",)}, "unknown steps; known: start, denoising_steps"),
        ({"decodings": ("../two:",)}, "cannot name a file"),
        ({"decodings": ("two:", "two:start=zero")}, "two decodings are called 'two'"),
        ({"decodings": ("two:denoising_steps=2.5",)}, "denoising_steps must be int, got '2.5'"),
        ({"decodings": ("two:remask=maybe",)}, "remask must be bool, got 'maybe'"),
        ({"decodings": ("two:temperature=hot",)}, "temperature must be float, got 'hot'"),
        ({"seed": -1}, "first is -1"),
        ({"tasks": (PUSH, PUSH)}, "tasks holds a name twice"),
        ({"tasks": ()}, "at least one task"),
    ],
)
def test_impossible_settings(
    change: dict[str, Any], message: str, settings: BenchmarkSettings
) -> None:
    with pytest.raises(BenchmarkSettingsError, match=message):
        replace(settings, **change)
