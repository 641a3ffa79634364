"""How far episodes got: counted for each stage, by policy and task, from what the log says."""

from e0_bench.closed_loop.episodes import EpisodeResult
from e0_bench.closed_loop.stages import STAGES_NOTE, stages_summary
from e0_bench.closed_loop.summary import markdown, summarize

STACK = ["cube held", "over the other", "on the other"]


def episode(
    policy: str, seed: int, stages: list[str] | None, success: bool = False, control: str = "none"
) -> EpisodeResult:
    result = EpisodeResult(policy, "Stack", seed, control, success, 9, 0.0, [], 2, 3.0, "stack it")
    return EpisodeResult.from_json(
        EpisodeResult(**vars(result) | {"stages": stages}).to_json()  # as it comes from the log
    )


def test_they_are_counted_for_each_policy_as_usual() -> None:
    episodes = [
        episode("a", 0, STACK, success=True),
        episode("a", 1, STACK[:1]),
        episode("a", 2, []),
        episode("b", 0, STACK[:2]),
        episode("b", 1, STACK[:2]),
        episode("b", 2, STACK[:1]),
        episode("a", 0, STACK, control="blackout"),
        episode("b", 0, STACK, control="blackout"),
    ]
    summary = summarize(episodes, ["a", "b"], ["Stack"], ["blackout"])
    of_task = {"task": "Stack", "episodes": 3}
    assert summary["stages"] == [
        of_task
        | {"policy": "a", "successes": 1}
        | {"reached": {"cube held": 2, "over the other": 1, "on the other": 1}},
        of_task
        | {"policy": "b", "successes": 0}
        | {"reached": {"cube held": 3, "over the other": 2, "on the other": 0}},
    ]
    page = markdown(summary)
    row = "cube held 3 → over the other 2 → on the other 0 → success 0, of 3"
    assert row in page and STAGES_NOTE in page


def test_an_older_log_tells_of_none() -> None:
    old, new = episode("a", 0, None), episode("b", 0, STACK[:1])
    assert stages_summary([old], ["a"]) == {}
    (row,) = stages_summary([old, new], ["a", "b"])["stages"]
    assert row["policy"] == "b" and row["reached"] == {"cube held": 1}
    summary = summarize([old], ["a"], ["Stack"], [])
    assert "How far" not in markdown(summary)


def test_a_stage_of_maniskills_tasks_is_told_even_where_nobody_reached_it() -> None:
    one = EpisodeResult(**vars(episode("a", 0, STACK[:1])) | {"task": "StackCube-v1"})
    (row,) = stages_summary([one], ["a"])["stages"]
    assert row["reached"] == {"cube held": 1, "over the other": 0, "on the other": 0}
