"""A training in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e0_bench.training_run import check_training, last_checkpoint, local_training, train
from e0_system import locks


def test_what_is_said_goes_before_what_is_chosen() -> None:
    settings = local_training(Path("some/data"), {"preset": "tiny"}, {"steps": 100, "log_freq": 3})
    assert settings["log_freq"] == 3
    assert settings["save_freq"] == 20
    assert settings["policy"] == {"type": "e0", "push_to_hub": False, "preset": "tiny"}
    assert settings["dataset"]["root"] == Path("some/data")
    check_training(settings)


def test_unknown_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"lerobot-train does not take .*log_frequency"):
        check_training(local_training(Path("data"), {}, {"steps": 1, "log_frequency": 3}))


def test_a_failed_training_shows_its_log(tmp_path: Path) -> None:
    settings = local_training(tmp_path / "data", {"head": "unheard-of"}, {"steps": 1})
    with pytest.raises(RuntimeError, match=r"(?s)training failed; .*run\.log.*unknown head 'unhea"):
        train(settings, tmp_path / "run", threads=1)


def test_two_trainings_into_one_directory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.0)
    run = tmp_path / "run"
    with (
        locks.own_directory(run, tmp_path / "run.lock"),
        pytest.raises(locks.DirectoryInUseError, match=rf"process {os.getpid()} on .*run;"),
    ):
        train(local_training(tmp_path, {}, {"steps": 1}), run)


def test_names_with_a_dot_share_nothing(tmp_path: Path) -> None:
    settings = local_training(tmp_path / "data", {"head": "unheard-of"}, {"steps": 1})
    for name in ("lr_0.001", "lr_0.002"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.json").write_text(json.dumps({"output_dir": "elsewhere"}))
        with pytest.raises(FileExistsError, match=rf"{name} is there, and .*{name}\.json does not"):
            train(settings, tmp_path / name)
    assert (tmp_path / "lr_0.001").is_dir()


def test_only_a_training_that_was_begun_here_is_removed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="move it away"):
        train(local_training(tmp_path, {}, {"steps": 1}), victim)
    assert (victim / "thesis.txt").exists()


def test_a_lost_link_to_the_last_checkpoint_comes_back(tmp_path: Path) -> None:
    """LeRobot removes the link before it makes the next one: a kill between them loses it."""
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "checkpoints" / "000008").mkdir(parents=True)
    assert last_checkpoint(tmp_path) is None, "the first one may have been cut short"
    (tmp_path / "checkpoints" / "000016").mkdir()
    found = last_checkpoint(tmp_path)
    assert found is not None and found.resolve().name == "000016"
    (tmp_path / "checkpoints" / "000024").mkdir()  # cut short: the link still names the other
    assert last_checkpoint(tmp_path) == found and found.resolve().name == "000016"


CHILD = """
import sys, time
print("here", sys.argv[1], flush=True)
time.sleep(60)
"""
PARENT = """
import sys, time
from pathlib import Path
from e0_bench.child_process import child_process
from e0_system.locks import own_directory

run = Path(sys.argv[1])
with own_directory(run) as lock, open(run / "log", "a") as log:
    with child_process("sleeping", ["a"], log, lock) as process:
        print(process.pid, flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("started", [False, True])
def test_a_child_ends_with_its_parent_and_holds_the_lock_until_then(
    ending: signal.Signals, started: bool, tmp_path: Path
) -> None:
    (tmp_path / "sleeping.py").write_text(CHILD)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        with (
            pytest.raises(locks.DirectoryInUseError, match=f"process {child} on"),
            locks.own_directory(tmp_path, patience=0.0),
        ):
            pass
        while started and not (tmp_path / "log").read_text():
            time.sleep(0.01)
    finally:
        parent.send_signal(ending)
        parent.wait()
    with locks.own_directory(tmp_path, patience=30.0):  # the child would sleep for 60
        assert not started or (tmp_path / "log").read_text() == "here a\n"
