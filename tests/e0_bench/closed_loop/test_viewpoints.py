"""Success by how cameras were moved, from episodes written down by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from e0_bench.closed_loop.episodes import EpisodeLog, EpisodeResult
from e0_bench.closed_loop.summary import markdown, summarize
from e0_bench.closed_loop.viewpoints import VIEWPOINTS_NOTE
from e0_bench.statistics import wilson_interval

USUAL = EpisodeResult("a", "libero_goal_camera", 0, "none", True, 9, 0.0, [], 2, 20.0, "open it")
VIEWS = ["20_0_100_0_0", "300_0_100_0_0", "340_0_100_0_0", "0_0_160_0_0", "60_0_100_0_0"]


def episodes(policy: str, successes: str, control: str = "none") -> list[EpisodeResult]:
    """An episode for each view, a success where there is an x."""
    return [
        replace(
            USUAL,
            policy=policy,
            seed=seed,
            control=control,
            success=successes[seed] == "x",
            variant=f"open_it_view_{view}_initstate_0",
        )
        for seed, view in enumerate(VIEWS)
    ]


def test_viewpoints_that_are_moved_alike_share_a_row() -> None:
    rows = [*episodes("a", "x-xx-"), *episodes("b", "xxxxx"), *episodes("a", "-----", "blackout")]
    rows += episodes("b", "-----", "blackout")
    summary = summarize(rows, ["b", "a"], ["libero_goal_camera"], ["blackout"])
    found = {
        (row["band"], row["policy"]): (row["successes"], row["episodes"])
        for row in summary["viewpoints"]
    }
    assert list(found.items()) == [
        (("azimuth 1–25°", "b"), (2, 2)),
        (("azimuth 1–25°", "a"), (2, 2)),
        (("azimuth 51–75°", "b"), (2, 2)),
        (("azimuth 51–75°", "a"), (0, 2)),
        (("distance ×1.51–2.00", "b"), (1, 1)),
        (("distance ×1.51–2.00", "a"), (1, 1)),
    ]
    row = summary["viewpoints"][3]
    assert (row["rate"], (row["low"], row["high"])) == (0.0, wilson_interval(0, 2))
    table = markdown(summary)
    assert "| libero_goal_camera | azimuth 51–75°      | 2/2, 100 % (34–100) | 0/2, 0 %" in table
    assert VIEWPOINTS_NOTE in table


def test_without_such_suites_there_is_no_table() -> None:
    summary = summarize([replace(USUAL, task="open")], ["a"], ["open"], [])
    assert "viewpoints" not in summary and VIEWPOINTS_NOTE not in markdown(summary)


def test_the_log_keeps_which_variant_an_episode_was(tmp_path: Path) -> None:
    log = EpisodeLog(tmp_path / "episodes.jsonl")
    (result, *_) = episodes("a", "xxxxx")
    log.append(result)
    assert list(EpisodeLog(log.path).results.values()) == [result]
    assert "variant" not in USUAL.to_json()
