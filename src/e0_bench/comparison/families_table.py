"""Many environments of several comparisons in one table, as papers report them: what was measured,
what is missing, what is published, the means, and the lead over the strongest other policy.

An environment is a task, or all tasks of a suite (`libero_object` of `libero_object/0`, ...).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from e0_bench.statistics import Pairs, mean_interval, stratified_difference
from e0_bench.tables import interval_cell, table

Results = Mapping[str, Any]
"""The content of a `comparison.json`."""


@dataclass(frozen=True)
class Family:
    """Environments that one comparison measures. recipe: its file. results: in its place, a
    directory of episodes that were measured otherwise. Without either it is not measured.
    published: success in % that others report, by whose, then by environment."""

    environments: tuple[str, ...]
    recipe: str | None = None
    results: str | None = None
    published: dict[str, dict[str, float]] = field(default_factory=dict)


def families_table(
    families: Mapping[str, Family], results: Mapping[str, Results], reference: str
) -> dict[str, Any]:
    """The table as JSON data. results: of the families that were measured.

    environments: a row for each, with `measured` (by policy: the success of each training and the
    episodes of one) and `published`. common: the environments that `reference` has. means: of the
    policies that have all of these; of each training (`each`) where all have as many. lead: what
    `reference` is ahead of the other policy with the highest mean; missing if there is nothing to
    compare.
    """
    rows = [
        {
            "family": family,
            "environment": environment,
            "measured": _measured(results[family], environment) if family in results else {},
            "published": {
                whose: numbers[environment]
                for whose, numbers in known.published.items()
                if environment in numbers
            },
        }
        for family, known in families.items()
        for environment in known.environments
    ]
    policies = list(dict.fromkeys(name for row in rows for name in row["measured"]))
    common = [row for row in rows if reference in row["measured"]]
    means = {
        name: _mean([row["measured"][name] for row in common])
        for name in policies
        if common and all(name in row["measured"] for row in common)
    }
    data = {
        "environments": rows,
        "common": [row["environment"] for row in common],
        "means": means,
    }
    others = [name for name in means if name != reference]
    if reference in means and others:
        strongest = max(others, key=lambda name: means[name]["mean"])
        data["lead"] = _lead(common, results, reference, strongest, means)
    return data


def trainings_of(results: Results) -> dict[str, list[str]]:
    """The labels of each policy's trainings; one, of the same name, where there is one. Without the
    policies that were measured once more, told how their cameras moved."""
    owners = results.get("trainings", {}).get("policies", {})
    labels: dict[str, list[str]] = {}
    for label in results.get("policies", results["benchmark"]["policies"]):
        labels.setdefault(owners.get(label, label), []).append(label)
    return labels


def is_of(task: str, environment: str) -> bool:
    """Whether a task is an environment, or one of those of a suite."""
    return task == environment or task.startswith(f"{environment}/")


def _measured(results: Results, environment: str) -> dict[str, Any]:
    rates: dict[str, list[Mapping[str, Any]]] = {}
    for row in results["benchmark"]["rates"]:
        if row["control"] == "none" and is_of(row["task"], environment):
            rates.setdefault(row["policy"], []).append(row)
    if not rates:
        return {}
    return {
        policy: {
            "each": [fmean(row["rate"] for row in rates[label]) for label in labels],
            "episodes": sum(row["episodes"] for row in rates[labels[0]]),
        }
        for policy, labels in trainings_of(results).items()
    }


def _mean(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over environments, each counting the same whatever its number of trainings."""
    mean = fmean(fmean(cell["each"]) for cell in cells)
    trainings = {len(cell["each"]) for cell in cells}
    if len(trainings) > 1:
        return {"mean": mean, "each": []}
    numbers = range(trainings.pop())
    return {"mean": mean, "each": [fmean(cell["each"][k] for cell in cells) for k in numbers]}


def _lead(
    common: Sequence[Mapping[str, Any]],
    results: Mapping[str, Results],
    reference: str,
    other: str,
    means: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The difference with its interval: over trainings where there are several, else over the
    paired episodes of the one. Without one where families have different numbers of trainings."""
    mine, theirs = means[reference]["each"], means[other]["each"]
    each = [a - b for a, b in zip(mine, theirs, strict=True)] if len(mine) == len(theirs) else []
    low, high, over = None, None, "trainings"
    if len(each) > 1:
        low, high = mean_interval(each) or (None, None)
    elif len(each) == 1:
        strata = [_pairs(results[row["family"]], row, reference, other) for row in common]
        _, low, high = stratified_difference(strata)
        over = "episodes"
    found = {"mean": means[reference]["mean"] - means[other]["mean"], "low": low, "high": high}
    return {"reference": reference, "strongest": other, "over": over, "each": each} | found


def _pairs(results: Results, row: Mapping[str, Any], first: str, second: str) -> Pairs:
    """The episodes of an environment, paired; of the first training of each policy."""
    labels = trainings_of(results)
    names = (labels[first][0], labels[second][0])
    n = only_first = only_second = 0
    for found in results["benchmark"]["comparisons"]:
        if {found["first"], found["second"]} != set(names):
            continue
        if not is_of(found["task"], row["environment"]):
            continue
        own = (found["only_first"], found["only_second"])
        gained, lost = own if found["first"] == names[0] else own[::-1]
        n, only_first, only_second = n + found["n"], only_first + gained, only_second + lost
    return Pairs(n, only_first, only_second)


# As Markdown.


def columns(data: Mapping[str, Any], key: str) -> list[str]:
    """The names under `measured` or `published` that any environment has, in order."""
    return list(dict.fromkeys(name for row in data["environments"] for name in row[key]))


def families_markdown(data: Mapping[str, Any]) -> str:
    """The table of `families_table` as GitHub Markdown, with the lead in one sentence."""
    rows = data["environments"]
    policies, published = columns(data, "measured"), columns(data, "published")
    cells = [
        [
            row["environment"],
            *(_cell(row["measured"].get(name)) for name in policies),
            *(f"{row['published'][n]:.1f}" if n in row["published"] else "–" for n in published),
        ]
        for row in rows
    ]
    means = [data["means"].get(name) for name in policies]
    mean = f"mean of {len(data['common'])} of {len(rows)}"
    cells.append([mean, *map(_cell, means), *("" for _ in published)])
    head = ["environment", *policies, *(f"{name}, published" for name in published)]
    return "\n\n".join([lead_in_words(data), table(head, cells), NOTE])


NOTE = (
    "Success in %, the mean of the trainings and each of them, with the episodes of one; a dash is "
    "not measured. The last row is of the policies that have all environments of the reference."
)


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    each = [100 * rate for rate in found["each"]]
    mean = 100 * found["mean"] if "mean" in found else fmean(each)
    episodes = f", n = {found['episodes']}" if "episodes" in found else ""
    single = f" ({_numbers(each)})" if len(each) > 1 else ""
    return f"{mean:.0f}{single}{episodes}"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


def lead_in_words(data: Mapping[str, Any]) -> str:
    """One sentence on how far ahead, or behind, the reference is."""
    count = f"{len(data['common'])} of {len(data['environments'])} environments"
    if "lead" not in data:
        return f"**Nothing to compare**: no two policies have all of the same {count}."
    lead = data["lead"]
    points = f"{100 * abs(lead['mean']):.1f} points"
    place = "level with"
    if lead["mean"] != 0:
        place = f"{points} {'ahead of' if lead['mean'] > 0 else 'behind'}"
    interval = interval_cell(lead, "95 % interval {:+.0f} to {:+.0f}")
    sure = lead["low"] is not None and not lead["low"] <= 0 <= lead["high"]
    doubt = "" if sure else "; not distinguishable"
    kind = (
        f"over {len(lead['each']) or 'unequal numbers of'} trainings"
        if lead["over"] == "trainings"
        else "over the paired episodes of one training, so chance in training is not in it"
    )
    first, other = lead["reference"], lead["strongest"]
    if left_out := [name for name in columns(data, "measured") if name not in data["means"]]:
        doubt += f"; not measured in all of them: {', '.join(left_out)}"
    return (
        f"**Over {count}, {first} is {place} {other}**, the strongest other "
        f"policy ({interval}, {kind}{doubt})."
    )
