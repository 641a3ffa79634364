"""Several comparisons in one table: what is measured, what is missing, and who is ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from e0_bench.comparison.families import is_of_families, read_families
from e0_bench.comparison.families_table import Family, families_markdown, families_table
from e0_bench.comparison.recipe import RecipeError

RECIPES = Path(__file__).parents[3] / "recipes"
CUBES = Family(("PushCube-v1", "PickCube-v1"), "cubes.toml")
SUITES = Family(
    ("libero_object", "libero_10"), "libero.toml", published={"E0": {"libero_object": 99.4}}
)
TABLES = Family(("select_fruit",))


def comparison(
    rates: dict[str, dict[str, int]], n: int, trainings: dict[str, str] | None = None
) -> dict[str, Any]:
    """Results in which a policy solves so many of the n episodes of each task, the first ones."""
    benchmark = {
        "policies": {policy: {} for policy in rates},
        "rates": [
            {"policy": p, "control": control, "task": task, "rate": s / n, "episodes": n}
            for p, own in rates.items()
            for task, s in own.items()
            for control in ("none", "blackout")
        ],
        "comparisons": [
            {
                **{"first": a, "second": b, "task": task, "n": n},
                **{"only_first": max(0, s - rates[b][task])},
                **{"only_second": max(0, rates[b][task] - s)},
            }
            for a in rates
            for b in rates
            if a < b
            for task, s in rates[a].items()
        ],
    }
    return {"benchmark": benchmark} | ({"trainings": {"policies": trainings}} if trainings else {})


def one_training() -> dict[str, dict[str, Any]]:
    cubes = {"e0": {"PushCube-v1": 90, "PickCube-v1": 60}}
    cubes |= {"flow": {"PushCube-v1": 70, "PickCube-v1": 50}}
    cubes |= {"regression": {"PushCube-v1": 20, "PickCube-v1": 20}}
    suites = {
        "e0": {"libero_object/0": 10, "libero_object/1": 30, "libero_10/0": 100},
        "flow": {"libero_object/0": 20, "libero_object/1": 40, "libero_10/0": 0},
    }
    return {"cubes": comparison(cubes, 100), "suites": comparison(suites, 100)}


def test_tasks_of_a_suite_are_one_environment_and_what_is_not_measured_is_missing() -> None:
    families = {"cubes": CUBES, "suites": SUITES, "tables": TABLES}
    data = families_table(families, one_training(), "e0")
    rows = {row["environment"]: row for row in data["environments"]}
    assert list(rows) == [
        "PushCube-v1",
        "PickCube-v1",
        "libero_object",
        "libero_10",
        "select_fruit",
    ]
    assert rows["libero_object"]["measured"]["flow"] == {
        "each": [pytest.approx(0.3)],
        "episodes": 200,
    }
    assert rows["libero_10"]["measured"]["e0"] == {"each": [1.0], "episodes": 100}
    assert rows["libero_object"]["published"] == {"E0": 99.4}
    assert rows["select_fruit"]["measured"] == {}
    text = families_markdown(data)
    (line,) = (line for line in text.splitlines() if "select_fruit" in line)
    assert line.count("–") == 4 and "0" not in line
    assert "mean of 4 of 5" in text
    assert data["lead"]["strongest"] == "flow"
    assert "not measured in all of them: regression)" in text


def test_the_lead_over_the_strongest_is_paired_over_common_environments() -> None:
    data = families_table({"cubes": CUBES}, {"cubes": one_training()["cubes"]}, "e0")
    lead = data["lead"]
    assert (lead["strongest"], lead["over"]) == ("flow", "episodes")
    assert lead["mean"] == pytest.approx(0.15)
    assert 0.08 < lead["low"] < 0.15 < lead["high"] < 0.22
    assert "e0 is 15.0 points ahead of flow" in families_markdown(data)
    behind = families_table({"cubes": CUBES}, {"cubes": one_training()["cubes"]}, "flow")["lead"]
    assert behind["mean"] == pytest.approx(-0.15)
    assert behind["low"] == pytest.approx(-lead["high"])


def test_with_several_trainings_the_lead_is_over_these() -> None:
    trainings = {f"{policy}-{seed}": policy for seed in (1, 2, 3) for policy in ("e0", "flow")}
    solved = {"e0-1": 60, "e0-2": 70, "e0-3": 50, "flow-1": 50, "flow-2": 72, "flow-3": 40}
    rates = {label: {"PushCube-v1": s, "PickCube-v1": s} for label, s in solved.items()}
    results = {"cubes": comparison(rates, 100, trainings)}
    data = families_table({"cubes": CUBES}, results, "e0")
    assert data["lead"]["each"] == pytest.approx([0.1, -0.02, 0.1])
    assert data["lead"]["over"] == "trainings"
    assert data["lead"]["low"] < 0 < data["lead"]["high"]
    text = families_markdown(data)
    assert "over 3 trainings; not distinguishable" in text
    assert "60 (60, 70, 50), n = 100" in text


def test_families_of_different_numbers_of_trainings_have_no_interval() -> None:
    trainings = {f"{policy}-{seed}": policy for seed in (1, 2) for policy in ("e0", "flow")}
    solved = {"e0-1": 90, "e0-2": 10, "flow-1": 50, "flow-2": 60}
    several = comparison({label: {"a": s} for label, s in solved.items()}, 100, trainings)
    one = comparison({"e0": {"b": 50}, "flow": {"b": 50}}, 100)
    families = {"several": Family(("a",), "x"), "one": Family(("b",), "y")}
    data = families_table(families, {"several": several, "one": one}, "e0")
    assert data["means"]["e0"]["mean"] == pytest.approx(0.5)
    assert data["lead"]["mean"] == pytest.approx(-0.025) and data["lead"]["low"] is None
    assert "no interval, over unequal numbers of trainings" in families_markdown(data)


def test_what_was_told_more_is_no_policy_of_the_table() -> None:
    results = comparison({"e0": {"a": 50}, "flow": {"a": 40}, "e0, told": {"a": 90}}, 100)
    results["policies"] = {"e0": {}, "flow": {}}  # those that were trained
    data = families_table({"x": Family(("a",), "x")}, {"x": results}, "e0")
    assert data["lead"]["strongest"] == "flow" and "e0, told" not in data["means"]


def test_with_nothing_measured_it_says_so() -> None:
    data = families_table({"tables": TABLES}, {}, "e0")
    assert "lead" not in data
    assert "Nothing to compare" in families_markdown(data)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[families.a]\nenvironments = []\n", "lacks reference"),
        ('reference = "e0"\n[families.a]\nrecipe = "x.toml"\n', r"families.a\] lacks environments"),
        (
            'reference = "e0"\n[families.a]\nenvironments = ["one"]\n'
            "[families.a.published.E0]\nother = 1.0\n",
            r"published.E0\] has unknown other; known: one",
        ),
        (
            'reference = "e0"\n[families.a]\nenvironments = ["one"]\nrecipe = "x.toml"\n',
            "cannot read the recipe .*x.toml",
        ),
        (
            'reference = "e1"\n[families.a]\nenvironments = ["PushCube-v1"]\n'
            f'recipe = "{RECIPES / "maniskill_cpu.toml"}"\n',
            "the recipe of a lacks the reference 'e1'; it has e0_ordinal",
        ),
        (
            'reference = "e0_ordinal"\n[families.a]\nenvironments = ["PushCub-v1"]\n'
            f'recipe = "{RECIPES / "maniskill_cpu.toml"}"\n',
            "does not measure 'PushCub-v1'; its tasks are PushCube-v1",
        ),
        ('reference = "e0"\n[families.a]\nenvironments = "one"\n', "a list of different names"),
        (
            'reference = "e0"\n[families.a]\nenvironments = ["one"]\npublished = 3\n',
            r"published must be a table, got 3",
        ),
        ('reference = "e0"\n[families]\na = 3\n', r"families.a\] must be a table, got 3"),
    ],
)
def test_a_wrong_file_is_refused(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "all.toml"
    path.write_text(text)
    assert is_of_families(path)
    with pytest.raises(RecipeError, match=told):
        read_families(path)


def test_a_recipe_is_not_taken_for_several() -> None:
    assert not is_of_families(RECIPES / "maniskill_cpu.toml")
