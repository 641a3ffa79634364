"""Collecting: the selection follows from the seeds alone, through kills, deaths and resumes."""

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e0_experts.collection import (
    SettingsMismatchError,
    WorkerError,
    collect_episodes,
    numbers_per_task,
    try_experts,
)
from e0_experts.episodes import Episode, load_episode, run_expert
from e0_experts.selection import Outcome, Progress
from e0_maniskill import ManiSkillEnv
from e0_maniskill.demonstrations import ManiSkillSettings, demonstrator, spare_garbage_collector
from e0_system.workers import Processes, WorkerLostError, WorkerPool

TASK = "PushCube-v1"
SEED = 5000
COUNT = 5
# With 15 steps the expert is too slow for some seeds, so that failures are among the tries.
SETTINGS = ManiSkillSettings(
    state_only=True, proprioception="compact", episode_length=15, action_noise=0.1
)


@pytest.fixture(scope="module")
def expected() -> list[Episode]:
    """The first episodes of the task, failures included, made one after the other."""
    env = SETTINGS.make_env(TASK)
    episodes: list[Episode] = []
    while sum(episode.success for episode in episodes) < COUNT:
        episodes.append(
            run_expert(env, demonstrator, SEED + len(episodes), action_noise=SETTINGS.action_noise)
        )
    env.close()
    assert not all(episode.success for episode in episodes), "this test needs a failure"
    return episodes


def lost(*_: Any) -> None:
    raise WorkerLostError("it hung")


def assert_selection(directory: Path, workers: int, expected: list[Episode]) -> None:
    """Collecting (what is left) into `directory` gives exactly the expected episodes."""
    collected = collect_episodes(
        [TASK], COUNT, SEED, directory, processes=Processes(workers), settings=SETTINGS
    )[TASK]
    wanted = [episode for episode in expected if episode.success]
    assert collected.seeds == tuple(episode.seed for episode in wanted)
    assert collected.tries == len(expected)
    assert collected.success_rate == COUNT / len(expected)
    for path, episode in zip(collected.paths, wanted, strict=True):
        loaded = load_episode(path)
        assert (loaded.task, loaded.seed, loaded.success) == (TASK, episode.seed, True)
        for name in ("actions", "proprioception", "environment_state"):
            np.testing.assert_array_equal(getattr(loaded, name), getattr(episode, name))
    failures = sorted((directory / TASK).glob("*.failed.json"))
    lost = [episode.seed for episode in expected if not episode.success]
    assert [json.loads(file.read_text())["seed"] for file in failures] == lost


_COLLECT = """
import os, sys
from pathlib import Path
from test_maniskill_collection import COUNT, SEED, SETTINGS, TASK, collect_episodes
import multiprocessing

def report(outcome):
    print(outcome.seed, [child.pid for child in multiprocessing.active_children()], flush=True)

if __name__ == "__main__":
    collect_episodes([TASK], COUNT, SEED, Path(sys.argv[1]), settings=SETTINGS, on_episode=report)
"""


@pytest.mark.slow
def test_killed_collection_resumes_to_the_same_selection(
    tmp_path: Path, expected: list[Episode]
) -> None:
    program = tmp_path / "collect.py"
    program.write_text(_COLLECT)
    path = [str(Path(__file__).parent), *(entry for entry in sys.path if entry)]
    collector = subprocess.Popen(
        [sys.executable, str(program), str(tmp_path / "episodes")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": ":".join(path)},
    )
    assert collector.stdout is not None
    lines = [collector.stdout.readline() for _ in range(2)]
    collector.send_signal(signal.SIGKILL)
    collector.wait()
    workers = json.loads(lines[-1].partition(" ")[2])
    assert len(workers) == 2
    _assert_all_end(workers)
    done = len(list((tmp_path / "episodes" / TASK).glob("*[0-9].npz")))
    assert done < COUNT, "the kill came too late to test anything"
    assert_selection(tmp_path / "episodes", 1, expected)


def test_a_worker_may_die_and_an_episode_that_takes_two_is_reported(
    tmp_path: Path, expected: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = []

    def kill_workers(outcome: Outcome) -> None:
        if not kills:
            for child in multiprocessing.active_children():
                os.kill(child.pid or 0, signal.SIGKILL)
        kills.append(outcome)

    with monkeypatch.context() as patch:
        patch.setattr(WorkerPool, "_call", lost)
        with pytest.raises(WorkerError, match=f"{TASK} seed {SEED}: it hung; finished episodes"):
            collect_episodes(
                [TASK], COUNT, SEED, tmp_path, processes=Processes(1), settings=SETTINGS
            )
    collect_episodes(
        [TASK],
        COUNT,
        SEED,
        tmp_path,
        processes=Processes(1),
        settings=SETTINGS,
        on_episode=kill_workers,
    )
    assert len(kills) == len(expected)
    assert_selection(tmp_path, 1, expected)
    # A finished collection starts no worker, and other settings are refused before any work.
    began = time.monotonic()
    assert_selection(tmp_path, 1, expected)
    other = ManiSkillSettings(state_only=True, episode_length=15, action_noise=0.2)
    with pytest.raises(SettingsMismatchError, match=r"action_noise was 0\.1, now 0\.2"):
        collect_episodes([TASK], COUNT, SEED, tmp_path, settings=other)
    with pytest.raises(SettingsMismatchError, match="seed was 5000, now 5001"):
        collect_episodes([TASK], COUNT, SEED + 1, tmp_path, settings=SETTINGS)
    assert time.monotonic() - began < 3


def test_error_in_a_worker_is_its_cause(tmp_path: Path) -> None:
    impossible = ManiSkillSettings(state_only=True, episode_length=-1)
    with pytest.raises(WorkerError, match="raised: ValueError") as error:
        collect_episodes([TASK], 1, SEED, tmp_path, processes=Processes(1), settings=impossible)
    cause = error.value.__cause__
    assert cause is not None
    assert "_run_seed" in str(cause.__cause__), "the worker's traceback is lost"


def test_hopeless_expert_is_given_up(tmp_path: Path) -> None:
    """Twenty failures, as an earlier collection left them, are enough; ten of twenty are not."""
    for seed in range(20):
        (tmp_path / f"{seed}.failed.json").touch()
    directory = tmp_path.parent
    with pytest.raises(RuntimeError, match="succeeded in only 0 of 20 episodes"):
        Progress(tmp_path.name, 0, 3, directory)
    for seed in range(10):
        (tmp_path / f"{seed}.failed.json").rename(tmp_path / f"{seed}.npz")
    assert Progress(tmp_path.name, 0, 11, directory).wants_seed() == 20


def test_collecting_pictures(tmp_path: Path, rendering: None) -> None:
    pictures = ManiSkillSettings(image_size=32, depth=True)
    seen: list[Outcome] = []
    collected = collect_episodes(
        [TASK], 1, SEED, tmp_path, processes=Processes(1), settings=pictures, on_episode=seen.append
    )[TASK]
    episode = load_episode(collected.paths[0])
    assert seen == [Outcome(TASK, SEED, True, episode.length)]
    env = ManiSkillEnv(TASK, image_size=32, depth=True)
    observation, _ = env.reset(seed=SEED)
    env.close()
    np.testing.assert_array_equal(
        episode.images["base_camera"][0], observation["pixels"]["base_camera"]
    )
    np.testing.assert_array_equal(
        episode.depth["base_camera"][0], observation["depth"]["base_camera"]
    )


def test_experts_are_tried_task_after_task() -> None:
    seeds = {TASK: [SEED, SEED + 1], "PickCube-v1": [SEED]}
    noted: list[Outcome] = []
    settings = ManiSkillSettings(state_only=True)
    tried = list(
        try_experts(seeds, processes=Processes(1), settings=settings, on_episode=noted.append)
    )
    told = [[(one.task, one.seed, one.success) for one in outcomes] for outcomes in tried]
    assert told == [[(TASK, SEED, True), (TASK, SEED + 1, True)], [("PickCube-v1", SEED, True)]]
    assert noted == [outcome for outcomes in tried for outcome in outcomes]
    assert all(outcome.steps > 5 for outcome in noted)


def test_imports_are_spared_by_the_garbage_collector_and_garbage_is_not() -> None:
    class Scene:
        """Refers to itself, as ManiSkill's scenes do, so that only the collector frees it."""

        def __init__(self) -> None:
            self.itself = self

    try:
        spare_garbage_collector()
        assert not any(module is pytest for module in gc.get_objects())
        scene = weakref.ref(Scene())
        gc.collect()
        assert scene() is None
    finally:
        gc.unfreeze()


def test_numbers_per_task() -> None:
    assert numbers_per_task(3, ["a", "b"]) == {"a": 3, "b": 3}
    assert numbers_per_task((3, 5), ["a", "b"]) == {"a": 3, "b": 5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ["PushCub"]}, "unknown task"),
        ({"episodes_per_task": 0}, "episodes_per_task must be"),
        ({"episodes_per_task": (2, 3)}, "one for each of the 1 tasks"),
    ],
)
def test_impossible_collections_are_refused(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    usual: dict[str, Any] = {
        "tasks": [TASK],
        "episodes_per_task": 1,
        "seed": 0,
        "directory": tmp_path,
        "settings": SETTINGS,
    }
    with pytest.raises(ValueError, match=message):
        collect_episodes(**(usual | arguments))


@settings(max_examples=200, deadline=None)
@given(
    results=st.lists(st.booleans(), min_size=60, max_size=60),
    wanted=st.integers(1, 8),
    workers=st.integers(1, 5),
    known=st.sets(st.integers(0, 12)),
    data=st.data(),
)
def test_selection_does_not_depend_on_timing(
    results: list[bool], wanted: int, workers: int, known: set[int], data: st.DataObject
) -> None:
    """However many workers finish in whatever order, after whatever was done before: the first
    successes are selected, and no seed is run in vain."""
    results = [True if index % 2 else result for index, result in enumerate(results)]
    progress = Progress("Task", 0, wanted, Path("/nonexistent"))
    for seed in known:
        progress._outcomes[seed] = results[seed]
    run = set()
    while True:
        while len(progress.running) < workers and (seed := progress.wants_seed()) is not None:
            progress.running.add(seed)
        if not progress.running:
            break
        seed = data.draw(st.sampled_from(sorted(progress.running)))
        run.add(seed)
        progress.finish(Outcome("Task", seed, results[seed], 1))
    successes = [seed for seed, success in enumerate(results) if success][:wanted]
    collected = progress.selection(Path("/nonexistent"))
    assert collected.seeds == tuple(successes)
    assert collected.tries == successes[-1] + 1
    assert run == set(range(successes[-1] + 1)) - known


def _assert_all_end(pids: list[int]) -> None:
    """These processes, which are not our children, end within 20 seconds."""
    deadline = time.monotonic() + 20
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlive their killed collector"
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
