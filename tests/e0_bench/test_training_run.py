"""A training in a process of its own."""

from pathlib import Path

import pytest

from e0_bench.training_run import check_training, local_training, lock, train


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
    with pytest.raises(RuntimeError, match=r"(?s)the training failed; .*run\.log.*unknown head"):
        train(settings, tmp_path / "run", threads=1)


def test_two_trainings_into_one_directory_are_refused(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    with log.open("a") as first, log.open("a") as second:
        lock(first)
        with pytest.raises(RuntimeError, match=r"another process is still training into .*run;"):
            lock(second)
    with log.open("a") as third:
        lock(third)
