"""Checks of time, rest and instructions on what is made here."""

from __future__ import annotations

import numpy as np
import pytest
from recordings import make_column

from e0_bench.doctor.checks_episodes import (
    check_chunk,
    check_idle,
    check_lengths,
    check_timestamps,
)
from e0_bench.doctor.checks_features import check_memory
from e0_bench.doctor.checks_instructions import check_instructions
from e0_bench.doctor.findings import ERROR, NOTE, WARNING, Finding

STARTS, EPISODES = np.array([0, 100]), np.array([0, 1])


def times(fps: float = 30.0) -> np.ndarray:
    """Two episodes of a hundred frames, as LeRobot keeps them."""
    return np.tile(np.arange(100) / fps, 2).astype(np.float32).astype(float)


def test_even_timestamps_are_right_even_after_hours() -> None:
    assert not check_timestamps(times(), STARTS, EPISODES, 30, videos=True)
    long = (np.arange(30 * 3600 * 3) / 30).astype(np.float32).astype(float)
    assert not check_timestamps(long, np.array([0]), np.array([0]), 30, videos=True)


def test_another_rate_a_gap_and_a_step_back_are_told_apart() -> None:
    (rate,) = check_timestamps(times(15), STARTS, EPISODES, 30, videos=False)
    assert rate.level == WARNING and "are 15 fps; meta/info.json says 30" in rate.told
    gap = times()
    gap[150:] += 0.2
    (dropped,) = check_timestamps(gap, STARTS, EPISODES, 30, videos=True)
    assert dropped.level == ERROR and dropped.episodes == (1,) and "1 gap" in dropped.told
    back = times()
    back[50] = back[49]
    found = check_timestamps(back, STARTS, EPISODES, 30, videos=False)
    assert found[0].level == ERROR and found[0].episodes == (0,)
    assert "stand still or go backwards" in found[0].told


def test_jitter_names_the_tolerance_that_allows_it() -> None:
    jitter = times() + np.random.default_rng(0).uniform(0, 1e-3, 200)
    (finding,) = check_timestamps(jitter, STARTS, EPISODES, 30, videos=True)
    tolerance = float(finding.remedy.rpartition("--tolerance_s=")[2])
    assert 5e-4 < tolerance < 2e-3


def test_episodes_shorter_than_a_chunk_are_named() -> None:
    lengths, episodes = np.array([50, 12, 60]), np.arange(3)
    (finding,) = check_lengths(lengths, episodes, horizon=16)
    assert finding.episodes == (1,) and "--policy.horizon=12" in finding.remedy
    assert not check_lengths(lengths, episodes, horizon=12)


def test_a_chunk_of_a_moment_is_told_with_the_flags_for_a_second() -> None:
    (finding,) = check_chunk(np.array([300, 400]), fps=30, horizon=8)
    assert "0.267 s at 30 fps" in finding.told
    assert finding.remedy == "--policy.horizon=30 --policy.n_action_steps=15"
    assert not check_chunk(np.array([300]), fps=10, horizon=8)


def test_rest_is_found_where_neither_action_nor_state_moves() -> None:
    moving = np.cumsum(np.ones((400, 2)), axis=0)
    resting = moving.copy()
    resting[100:160] = resting[100]
    action = make_column(resting, episodes=4, feature="action")
    (finding,) = check_idle([action, make_column(resting, episodes=4)], fps=20)
    assert finding.level == WARNING and finding.episodes == (1,) and "2.95 s" in finding.told
    assert not check_idle([action, make_column(moving, episodes=4)], fps=20)
    (short,) = check_idle([action], fps=50)
    assert "1.18 s" in short.told
    assert not check_idle([action], fps=100)


def instructed(*texts: object, used: bool = True) -> list[Finding]:
    """Findings where every task has an episode of its own."""
    tasks = dict(enumerate(texts))
    return check_instructions(tasks, {i: {i} for i in tasks}, 64, used)


def test_good_instructions_are_no_finding() -> None:
    assert not instructed("push the cube", "test the button", "put the task card into box 3")


@pytest.mark.parametrize(
    ("text", "level", "check"),
    [
        ("", WARNING, "empty instruction"),
        ("  ", WARNING, "empty instruction"),
        ("task_0", WARNING, "placeholder"),
        ("New task", WARNING, "placeholder"),
        ("n/a", WARNING, "placeholder"),
        ("12", WARNING, "placeholder"),
        ("pick the \ufffd\ufffd", ERROR, "odd instruction"),
        ("pick\x00", ERROR, "odd instruction"),
        (b"pick", ERROR, "odd instruction"),
        (None, ERROR, "odd instruction"),
        ("pick up the cube " * 5, ERROR, "long instruction"),
        ("é" * 33, ERROR, "long instruction"),  # bytes count, not characters
        ("Push the cube.", WARNING, "alike instructions"),
    ],
)
def test_odd_instructions_are_found(text: object, level: str, check: str) -> None:
    found = instructed("push the cube", text)
    assert [(f.level, f.check) for f in found] == [(level, check)]
    assert 1 in found[0].episodes


def test_long_instructions_matter_only_where_they_are_used() -> None:
    (finding,) = instructed("push the cube", "x y " * 40)
    assert "--policy.maximum_instruction_bytes=192" in finding.remedy
    assert not instructed("push the cube", "x y " * 40, used=False)


def test_one_instruction_for_all_is_a_note() -> None:
    (finding,) = instructed("push the cube")
    assert finding.level == NOTE and "--policy.use_instruction=false" in finding.remedy


def test_memory_that_is_not_there_is_told_with_both_numbers() -> None:
    (finding,) = check_memory(10**15)
    assert "1e+06 GB" in finding.told and "GB are free" in finding.told
    assert "lerobot-train" in finding.remedy
    assert not check_memory(1000)
