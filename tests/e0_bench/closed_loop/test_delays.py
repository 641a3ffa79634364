"""Chunks that come late: which rows are executed, what the policy is told, and what is measured."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from e0_bench.closed_loop.delays import Delay, LateChunks, delays_summary, delays_table
from e0_bench.closed_loop.environments import EnvironmentSettings
from e0_bench.closed_loop.episodes import EpisodeJob, EpisodeResult, changed_options
from e0_bench.closed_loop.runner import Assignment, Runner, RunnerSettings
from e0_bench.closed_loop.settings import BenchmarkSettings, BenchmarkSettingsError
from made_checkpoints import save_act, save_policy

H = 8


def execute(delay: Delay, every: int, steps: int) -> tuple[list[float], list[Any], LateChunks]:
    """The executed steps of chunks whose number is in the hundreds and whose row in the ones, and
    what the policy was told."""
    late, told = LateChunks(delay, every, H), []

    def predict(meanwhile: Tensor | None) -> Tensor:
        told.append(None if meanwhile is None else meanwhile[:, 0].tolist())
        return (100.0 * len(told) + torch.arange(H))[:, None]

    return [late.act(predict).item() for _ in range(steps)], told, late


def test_the_old_chunk_goes_on_until_the_new_one_comes() -> None:
    executed, told, _ = execute(Delay(2), 3, 10)
    assert executed == [100, 101, 102, 103, 104, 202, 203, 204, 302, 303]
    assert told == [None, [103, 104], [203, 204], [303, 304]]


def test_without_delay_chunks_follow_each_other() -> None:
    executed, told, _ = execute(Delay(0), 3, 7)
    assert executed == [100, 101, 102, 200, 201, 202, 300]
    assert told == [None, None, None]


def test_what_the_policy_is_told() -> None:
    assert execute(Delay(2, chunking="naive"), 3, 7)[1] == [None, None, None]
    assert execute(Delay(2, chunking="wrong"), 3, 7)[1] == [None, [-103, -104], [-203, -204]]
    # Row 3 of the old chunk is the first that is left.
    assert execute(Delay(2, chunking="guided"), 3, 6)[1] == [None, [103, 104, 105, 106, 107]]
    for chunking in ("naive", "wrong", "guided"):
        assert execute(Delay(2, chunking=chunking), 3, 9)[0] == execute(Delay(2), 3, 9)[0]


def test_blending_fades_the_new_chunk_in() -> None:
    executed, told, _ = execute(Delay(1, chunking="blend"), 4, 7)
    # Rows 5 to 7 of the old chunk meet rows 1 to 3 of the new one.
    expected = [105 + 0.25 * (201 - 105), 106 + 0.5 * (202 - 106)]
    assert executed == [100, 101, 102, 103, 104, *expected]
    assert told == [None, None]


def test_the_ensemble_is_the_mean_of_all_chunks_that_reach_a_step() -> None:
    executed, told, _ = execute(Delay(1, chunking="ensemble"), 2, 8)
    older = math.exp(0.01)
    two = [(older * (100 + step) + (200 + step - 2)) / (older + 1) for step in (3, 4)]
    three = (older**2 * 105 + older * 203 + 301) / (older**2 + older + 1)
    assert executed[:6] == pytest.approx([100, 101, 102, *two, three])
    # The first chunk ends with step 7, which three younger ones reach.
    assert executed[7] == pytest.approx(
        (older**3 * 107 + older**2 * 205 + older * 303 + 401) / (older**3 + older**2 + older + 1)
    )
    assert told == [None] * 4


def test_smoothness_in_deviations() -> None:
    _, _, late = execute(Delay(2), 3, 8)
    told = late.smoothness(torch.tensor([2.0]))
    # The first new step of the second chunk, 202, where the first one has 105; then 302 and 205,
    # which was asked for in step 6 but is not executed before step 8.
    assert told["seam"] == pytest.approx((97 + 97) / 2 / 2)
    assert told["change_at_seams"] == pytest.approx((202 - 104) / 2)
    assert told["change_elsewhere"] == pytest.approx(0.5)
    assert told["jerk"] == pytest.approx((97 + 97) / 6 / 2)


def test_delays_are_read_and_refused() -> None:
    text = "delay=2 camera_shift=1,0,1,0 execution_horizon=4 chunking=naive"
    assert Delay.parse(text) == Delay(2, 4, "naive")
    assert changed_options(text) == ("camera_shift=1,0,1,0",)
    assert Delay.parse("camera_shift=1,0,1,0") is None
    for control, message in (
        ("execution_horizon=4", "gives no delay"),
        ("delay=x", "delay must be a number of control steps, got 'x'"),
        ("delay=-1", "got '-1'"),
        ("delay=1 execution_horizon=0", "execution_horizon must be a number"),
        ("delay=1 chunking=magic", "unknown chunking 'magic'"),
    ):
        with pytest.raises(ValueError, match=message):
            Delay.parse(control)
        with pytest.raises(BenchmarkSettingsError, match=message):
            BenchmarkSettings((Path("x"),), ("PushCube-v1",), Path("y"), controls=(control,))
    for delay, every in ((4, 3), (3, 6), (5, 5)):
        with pytest.raises(ValueError, match=rf"between {delay} and {H - delay}"):
            LateChunks(Delay(delay), every, H)


def test_flags_stand_for_controls() -> None:
    def controls(**options: Any) -> tuple[str, ...]:
        return BenchmarkSettings((Path("x"),), ("T",), Path("y"), **options).every_control

    assert controls(delays=(0, 2)) == ("delay=0", "delay=2")
    assert controls(delays=(1,), execution_horizon=4, controls=("blackout",)) == (
        "blackout", "delay=1 execution_horizon=4",
    )  # fmt: skip
    for options, message in (
        ({"delays": (1, 1)}, "twice"),
        ({"delays": (-1,)}, "delay must be a number"),
        ({"delays": (1,), "execution_horizon": 0}, "execution_horizon must be a number"),
    ):
        with pytest.raises(BenchmarkSettingsError, match=message):
            controls(**options)


def test_policies_meet_chunks_that_come_late(tmp_path: Path) -> None:
    pytest.importorskip("mani_skill")
    environment = EnvironmentSettings(
        "maniskill", ("state_only=true", "proprioception=compact", "episode_length=12")
    )
    late = "delay=1 execution_horizon=3"
    controls = (late, *(f"{late} {other}" for other in ("chunking=naive", "chunking=guided")))
    controls += (f"blackout {late}",)
    policies, episodes = ["e0", "act", "flow"], []
    for name, checkpoint in (
        ("e0", save_policy(tmp_path / "e0", 17, rtc_training_max_delay=2, start="zero")),
        ("act", save_act(tmp_path / "act", 17)),
        ("flow", save_policy(tmp_path / "flow", 17, objective="flow", start="zero")),
    ):
        runner = Runner(RunnerSettings(checkpoint, environment))
        for control in controls:
            job = EpisodeJob(name, "PushCube-v1", 1, control)
            episodes.append(runner.run(Assignment(job, runner.settings)))
    assert all(e.chunks == 4 and EpisodeResult.from_json(e.to_json()) == e for e in episodes)
    rows = delays_summary(episodes, policies, ["PushCube-v1"], controls)["delays"]
    how = ("given", "naive", "guided", "given, blackout")
    assert [row["chunking"] for row in rows] == list(3 * how)
    same = ("change_at_seams", "change_elsewhere", "jerk")
    e0, act, flow = (
        {row["chunking"]: [row[name] for name in same] for row in rows if row["policy"] == policy}
        for policy in policies
    )
    assert all(row["seam"] > 0 for row in rows if row["policy"] == "e0")
    assert act["given"] == act["naive"] == act["guided"], "ACT cannot be given any steps"
    assert e0["given"] != e0["naive"] == e0["guided"], "only flow matching is guided"
    assert len(set(map(tuple, flow.values()))) == 4
    assert all(policy["given, blackout"] != policy["given"] for policy in (e0, act, flow))
    assert "| e0     | PushCube-v1 | 1     | 3" in delays_table(rows)
