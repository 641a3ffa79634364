"""What a benchmark's table says, from episodes written down by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from e0_bench.closed_loop.episodes import EpisodeResult
from e0_bench.closed_loop.figures import calibration_figure, success_figure
from e0_bench.closed_loop.summary import markdown, renew_intervals, summarize
from e0_bench.statistics import PairingError, wilson_interval


def episodes(
    policy: str, task: str, outcomes: str, *, control: str = "none", telling: bool = False
) -> list[EpisodeResult]:
    """One episode for each sign of `outcomes`; telling: entropy is high exactly where it fails."""
    return [
        EpisodeResult(
            policy, task, seed, control, sign == "+", 10, 1.0,
            [0.1 * (seed % 7) + (sign == "-"), 1.0] if telling else [],
            2, 20.0, "do it", clipped_steps=seed % 2 if policy == "b" else 0,
        )
        for seed, sign in enumerate(outcomes)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    rows = episodes("a", "push", "+" * 24 + "------", telling=True)
    rows += episodes("a", "pick", "+" * 15 + "-" * 15, telling=True)
    rows += episodes("b", "push", "-" * 10 + "+" * 20) + episodes("b", "pick", "-+" * 15)
    for policy in ("a", "b"):
        for task in ("push", "pick"):
            rows += episodes(policy, task, "-" * 5, control="blackout")
    return summarize(rows, ["a", "b"], ["push", "pick"], ["blackout"])


def row(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (found,) = (r for r in rows if all(r[key] == value for key, value in wanted.items()))
    return found


def test_rates(summary: dict[str, Any]) -> None:
    everything = row(summary["rates"], policy="a", control="none", task="all tasks")
    assert (everything["successes"], everything["episodes"], everything["rate"]) == (39, 60, 0.65)
    assert (everything["low"], everything["high"]) == wilson_interval(39, 60)
    blind = row(summary["rates"], policy="b", control="blackout", task="push")
    assert (blind["successes"], blind["episodes"]) == (0, 5)


def test_comparisons(summary: dict[str, Any]) -> None:
    push = row(summary["comparisons"], task="push")
    # a: seeds 0-23, b: seeds 10-29.
    assert (push["n"], push["only_first"], push["only_second"]) == (30, 10, 6)
    assert push["difference"] == pytest.approx(4 / 30)
    assert push["low"] < 4 / 30 < push["high"]
    assert push["p"] == pytest.approx(0.4545, abs=1e-4)
    assert push["verdict"] == "not distinguishable"
    assert row(summary["comparisons"], task="all tasks")["n"] == 60


def test_p_values_are_adjusted_within_a_task() -> None:
    """Three pairs: the p of the one clear task does not depend on the other task's rows."""
    results = {"a": "+" * 20, "b": "+" * 20, "c": "-" * 12 + "+" * 8}
    rows = [e for p, text in results.items() for e in episodes(p, "push", text)]
    alone = summarize(rows, [*results], ["push"], [])["comparisons"]
    rows += [e for p in results for e in episodes(p, "pick", "+" * 20)]
    both = summarize(rows, [*results], ["push", "pick"], [])["comparisons"]
    worst = row(alone, first="a", second="c")
    assert worst["p"] == pytest.approx(2 * 0.5**12)
    assert worst["p_holm"] == pytest.approx(3 * worst["p"])
    assert row(both, first="a", second="c", task="push")["p_holm"] == worst["p_holm"]


def test_clear_winner_and_too_few() -> None:
    rows = [e for p, s in (("a", "+"), ("b", "-")) for e in episodes(p, "push", 20 * s)]
    (clear,) = summarize(rows, ["b", "a"], ["push"], [])["comparisons"]
    assert (clear["verdict"], clear["difference"], clear["low"]) == ("a ahead", -1.0, -1.0)
    assert -0.65 < clear["high"] < -0.55
    few = summarize([e for e in rows if e.seed < 19], ["a", "b"], ["push"], [])
    assert few["comparisons"][0]["verdict"] == "too few episodes for a claim (n = 19)"


def test_kept_summaries_get_the_intervals_of_their_counts(summary: dict[str, Any]) -> None:
    kept = {**summary, "comparisons": [r | {"low": None} for r in summary["comparisons"]]}
    assert renew_intervals(kept) == summary
    assert kept["comparisons"][0]["low"] is None, "itself it stays as it was"


def test_control_is_compared_on_its_own_seeds(summary: dict[str, Any]) -> None:
    push = row(summary["controls"], policy="a", task="push")
    assert (push["first"], push["second"], push["n"]) == ("as usual", "blackout", 5)
    assert (push["only_first"], push["only_second"]) == (5, 0)


def test_moved_cameras_have_a_table_of_their_own() -> None:
    shift = "camera_shift=15,0,0.9,0"
    rows = episodes("a", "push", "+" * 40) + episodes("b", "push", "+" * 40)
    rows += episodes("a", "push", "+" * 36 + "----", control=shift)
    rows += episodes("b", "push", "-" * 20 + "+" * 20, control=shift)
    rows += [e for p in ("a", "b") for e in episodes(p, "push", "-" * 5, control="blackout")]
    found = summarize(rows, ["a", "b"], ["push"], ["blackout", shift])
    (pair,) = found["moved"]
    assert (pair["control"], pair["first"], pair["second"], pair["n"]) == (shift, "a", "b", 40)
    assert pair["verdict"] == "a ahead"
    lines = [line for line in markdown(found).splitlines() if line.startswith("| ")]
    cells = {[c.strip() for c in line.split("|")][1]: line for line in lines}
    assert "90 (77–96), lost 10 (-4 to 26); ahead of b" in cells["azimuth +15°, distance ×0.9"]
    assert "50 (35–65), lost 50" in cells["azimuth +15°, distance ×0.9"]
    assert cells["home"].count("100 (91–100)") == 2
    assert not any("camera_shift" in line for line in lines)
    assert any(line.startswith("| a, blackout") for line in lines)
    assert "moved" not in summarize(rows, ["a", "b"], ["push"], ["blackout"])


def test_calibration(summary: dict[str, Any]) -> None:
    assert set(summary["calibration"]) == {"a"}
    found = summary["calibration"]["a"]["shared start"]
    assert (found["auc"], found["low"], found["n"], found["failures"]) == (1.0, None, 60, 21)
    assert found["verdict"] == "failures have the higher entropy"
    shares = [b["failures"] / b["n"] for b in found["bins"]]
    assert (len(shares), shares[0], shares[-1]) == (5, 0.0, 1.0)
    rows = episodes("a", "push", "+" * 20 + "-" * 4, telling=True)
    few = summarize(rows, ["a"], ["push"], [])["calibration"]["a"]["shared start"]
    assert few["verdict"] == "too few failures for a claim (4)"
    rows = episodes("a", "push", "+" * 20, telling=True)
    none = summarize(rows, ["a"], ["push"], [])["calibration"]["a"]["shared start"]
    assert (none["auc"], none["verdict"]) == (None, "no task has both failures and successes")


def test_what_comes_after_a_failure_is_no_foresight() -> None:
    """Failures go on for longer, with a high entropy; all begin alike."""
    rows = [
        replace(e, entropy=[1.0, 2.0] if e.success else [1.0, 2.0, 5.0, 5.0])
        for e in episodes("a", "push", "+-" * 10)
    ]
    found = summarize(rows, ["a"], ["push"], [])["calibration"]["a"]
    assert (found["whole episode"]["auc"], found["shared start"]["auc"]) == (1.0, 0.5)


def test_missing_episodes_are_refused() -> None:
    rows = episodes("a", "push", "+++") + episodes("b", "push", "++")
    with pytest.raises(PairingError, match=r"\('push', 2\)"):
        summarize(rows, ["a", "b"], ["push"], [])


def test_table_says_it_all(summary: dict[str, Any]) -> None:
    table = markdown(summary)
    low, high = (f"{100 * bound:.0f}" for bound in wilson_interval(24, 30))
    assert f"24/30, 80 % ({low}–{high})" in table
    assert "| a, blackout |" in table
    assert "failures have the higher entropy" in table
    assert "b left the action space in 5.0 % of its steps" in table
    assert "100 % (no interval)" in table
    for part in table.split("\n\n"):
        if part.startswith("|"):
            assert len({len(line) for line in part.splitlines()}) == 1, "a column is out of line"


def test_figures(summary: dict[str, Any], tmp_path: Path) -> None:
    for draw, name in ((success_figure, "success.png"), (calibration_figure, "calibration.png")):
        draw(summary, tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            assert len(picture.convert("RGB").getcolors(2**20) or []) > 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration.png", "success.png"]


def test_ambiguity_is_judged_like_entropy_where_it_is_told() -> None:
    rows = [
        replace(e, ambiguity=[0.0] if e.success else [0.5])
        for e in episodes("a", "push", "+-" * 15)
    ]
    found = summarize(rows, ["a"], ["push"], [])
    assert found["calibration"] == {}
    assert found["ambiguity"]["a"]["shared start"]["auc"] == 1.0
    assert (
        found["ambiguity"]["a"]["shared start"]["verdict"] == "failures have the higher ambiguity"
    )
    assert "## Does ambiguity foretell failure?" in markdown(found)
    assert "ambiguity" not in summarize(episodes("a", "push", "+-" * 15), ["a"], ["push"], [])
