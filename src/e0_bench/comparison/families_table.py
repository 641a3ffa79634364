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
    """Environments that one comparison measures. recipe: its file; None if it is not measured.
    published: success in % that others report, by whose, then by environment."""

    environments: tuple[str, ...]
    recipe: str | None = None
    published: dict[str, dict[str, float]] = field(default_factory=dict)


def families_table(
    families: Mapping[str, Family], results: Mapping[str, Results], reference: str
) -> dict[str, Any]:
    """The table as JSON data. results: of the families that were measured.

    environments: a row for each, with `measured` (by policy: the success of each training and the
    episodes of one) and `published`. means: by policy, over the environments that all policies
    have (`common`), for each training. lead: what `reference` is ahead of the policy with the
    highest mean, over these environments; missing if there is nothing to compare.
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
    common = [row for row in rows if policies and row["measured"].keys() == set(policies)]
    means = {name: _mean_of_each([row["measured"][name] for row in common]) for name in policies}
    data = {
        "environments": rows,
        "common": [row["environment"] for row in common],
        "means": {name: {"each": each} for name, each in means.items() if each},
    }
    others = [name for name in data["means"] if name != reference]
    if reference in data["means"] and others:
        strongest = max(others, key=lambda name: fmean(means[name]))
        data["lead"] = _lead(common, results, reference, strongest, means)
    return data


def _labels(results: Results, policy: str) -> list[str]:
    """The names of a policy's trainings."""
    own = results.get("trainings", {}).get("policies")
    if own is None:
        return [policy]
    return [label for label, name in own.items() if name == policy]


def _policies(results: Results) -> list[str]:
    own = results.get("trainings", {}).get("policies")
    return list(dict.fromkeys(own.values() if own else results["benchmark"]["policies"]))


def _is_of(task: str, environment: str) -> bool:
    return task == environment or task.startswith(f"{environment}/")


def _measured(results: Results, environment: str) -> dict[str, Any]:
    rates: dict[str, list[Mapping[str, Any]]] = {}
    for row in results["benchmark"]["rates"]:
        if row["control"] == "none" and _is_of(row["task"], environment):
            rates.setdefault(row["policy"], []).append(row)
    if not rates:
        return {}
    trainings = {policy: _labels(results, policy) for policy in _policies(results)}
    return {
        policy: {
            "each": [fmean(row["rate"] for row in rates[label]) for label in labels],
            "episodes": sum(row["episodes"] for row in rates[labels[0]]),
        }
        for policy, labels in trainings.items()
    }


def _mean_of_each(cells: Sequence[Mapping[str, Any]]) -> list[float]:
    """Over environments, for each training as far as all have as many."""
    trainings = min((len(cell["each"]) for cell in cells), default=0)
    return [fmean(cell["each"][number] for cell in cells) for number in range(trainings)]


def _lead(
    common: Sequence[Mapping[str, Any]],
    results: Mapping[str, Results],
    reference: str,
    other: str,
    means: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """The difference with its interval: over trainings where there are several, else over the
    paired episodes of the one."""
    each = [a - b for a, b in zip(means[reference], means[other], strict=False)]
    if len(each) > 1:
        low, high = mean_interval(each) or (None, None)
        over = "trainings"
    else:
        strata = [_pairs(results[row["family"]], row, reference, other) for row in common]
        _, low, high = stratified_difference(strata)
        over = "episodes"
    found = {"mean": fmean(each), "low": low, "high": high}
    return {"reference": reference, "strongest": other, "over": over, "each": each} | found


def _pairs(results: Results, row: Mapping[str, Any], first: str, second: str) -> Pairs:
    """The episodes of an environment, paired; of the first training of each policy."""
    names = (_labels(results, first)[0], _labels(results, second)[0])
    n = only_first = only_second = 0
    for found in results["benchmark"]["comparisons"]:
        if {found["first"], found["second"]} != set(names):
            continue
        if not _is_of(found["task"], row["environment"]):
            continue
        own = (found["only_first"], found["only_second"])
        gained, lost = own if found["first"] == names[0] else own[::-1]
        n, only_first, only_second = n + found["n"], only_first + gained, only_second + lost
    return Pairs(n, only_first, only_second)


# As Markdown.


def families_markdown(data: Mapping[str, Any]) -> str:
    """The table of `families_table` as GitHub Markdown, with the lead in one sentence."""
    rows = data["environments"]
    policies = list(dict.fromkeys(name for row in rows for name in row["measured"]))
    published = list(dict.fromkeys(name for row in rows for name in row["published"]))
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
    "not measured. The last row is over the environments that every policy has."
)


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "–"
    each = [100 * rate for rate in found["each"]]
    episodes = f", n = {found['episodes']}" if "episodes" in found else ""
    single = f" ({_numbers(each)})" if len(each) > 1 else ""
    return f"{fmean(each):.0f}{single}{episodes}"


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


def lead_in_words(data: Mapping[str, Any]) -> str:
    """One sentence on how far ahead, or behind, the reference is."""
    count = f"{len(data['common'])} of {len(data['environments'])} environments"
    if "lead" not in data:
        return f"**Nothing to compare yet**: {count} are measured for all policies."
    lead = data["lead"]
    points = f"{100 * abs(lead['mean']):.1f} points"
    place = "level with"
    if lead["mean"] != 0:
        place = f"{points} {'ahead of' if lead['mean'] > 0 else 'behind'}"
    interval = interval_cell(lead, "95 % interval {:+.0f} to {:+.0f}")
    sure = lead["low"] is not None and not lead["low"] <= 0 <= lead["high"]
    doubt = "" if sure else "; not distinguishable"
    kind = (
        f"over {len(lead['each'])} trainings"
        if lead["over"] == "trainings"
        else "over the paired episodes of one training, so chance in training is not in it"
    )
    first, other = lead["reference"], lead["strongest"]
    return (
        f"**Over {count}, {first} is {place} {other}**, the strongest other "
        f"policy ({interval}, {kind}{doubt})."
    )
