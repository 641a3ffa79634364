"""Which decoding of a sweep is best, and measuring it on other seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from e0_bench.token_lab.decodings import OWN, Way, all_ways
from e0_bench.token_lab.results import OtherSettingsError, ResultsFile, Row
from e0_bench.token_lab.settings import Run


class SweepError(ValueError):
    """A sweep cannot tell how to decode what is to be measured."""


def sweep_runs(runs: Sequence[Run]) -> list[Run]:
    """The runs, measured under every decoding of their objectives."""
    return [replace(run, ways=all_ways(run.objective)) for run in runs]


def is_sweep(rows: Sequence[Row]) -> bool:
    """Whether rows hold decodings among which none has been chosen yet."""
    chosen = any(row.get("best_by") is not None for row in rows)
    return not chosen and any(row.get("decoding", OWN) != OWN for row in rows)


def pick_best(rows: Sequence[Row]) -> list[Row]:
    """Of a sweep's rows those of the own decodings, and for each variant, vocabulary and number of
    denoising steps those of the best by energy distance and by coherence, means over seeds; of two
    that are equal the better by the other metric. `best_by` names the metrics; it stays as it is
    where there was only one decoding. Raises SweepError for rows without an energy distance."""
    groups: dict[tuple, dict[str, list[Row]]] = {}
    for row in rows:
        if row.get("energy_distance") is None:
            raise SweepError(
                f"{row['variant']}, seed {row['seed']}, was measured without the energy distance; "
                "make the sweep anew"
            )
        group = groups.setdefault((row["variant"], row["bins"], row["denoising_steps"]), {})
        group.setdefault(row["decoding"], []).append(row)
    return [row for group in groups.values() for row in _best_of(group)]


def _best_of(group: dict[str, list[Row]]) -> list[Row]:
    if len(group) == 1:
        return [row for own in group.values() for row in own]
    loss = {
        decoding: (_mean(own, "energy_distance"), -_mean(own, "coherence"))
        for decoding, own in group.items()
    }
    best: dict[str, list[str]] = {OWN: []}
    best.setdefault(min(loss, key=lambda name: loss[name]), []).append("energy_distance")
    best.setdefault(min(loss, key=lambda name: loss[name][::-1]), []).append("coherence")
    return [row | {"best_by": best_by} for name, best_by in best.items() for row in group[name]]


def _mean(rows: Sequence[Row], metric: str) -> float:
    return statistics.mean(row[metric] for row in rows)


def best_runs(runs: Sequence[Run], sweep: ResultsFile) -> list[Run]:
    """The runs, measured under their own decoding and those that the sweep found best.

    Raises SweepError if the sweep trained with a seed of the runs, since what was tuned on a
    training says too much of it, or lacks one of their variants; OtherSettingsError if it holds
    other settings under a variant's name."""
    if seeds := {row["seed"] for row in sweep.rows} & {run.seed for run in runs}:
        raise SweepError(
            f"{sweep.path} chose decodings on seed {', '.join(map(str, sorted(seeds)))}: measure "
            "with other seeds"
        )
    return [_best_run(run, sweep) for run in runs]


def _best_run(run: Run, sweep: ResultsFile) -> Run:
    if not run.trains:
        return run
    own = [r for r in sweep.rows if (r["variant"], r["bins"]) == (run.variant, run.bins)]
    if not own:
        raise SweepError(
            f"{sweep.path} holds no decodings of {run.variant!r} with bins {run.bins}: make a "
            "sweep of it first"
        )
    if any(row["overrides"] != run.overrides for row in own):
        raise OtherSettingsError(
            f"{sweep.path} holds {run.variant} with other settings than {dict(run.overrides)}"
        )
    ways = {}
    for row in pick_best(own):
        best_by = None if row["best_by"] is None else tuple(row["best_by"])
        way = Way(row["decoding"], row["denoising_steps"], best_by)
        ways[way.decoding, way.steps] = way
    return replace(run, ways=tuple(ways.values()))
