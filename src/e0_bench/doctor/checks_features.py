"""Checks of what a policy would take from the dataset: features, statistics, memory."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import psutil
from lerobot.configs import FeatureType, NormalizationMode
from lerobot.utils.constants import ACTION
from lerobot.utils.feature_utils import dataset_to_policy_features

from e0_bench.doctor.findings import ERROR, NOTE, WARNING, Finding, listed, number, share
from e0_bench.doctor.reading import BOOKKEEPING, Column, Recording
from lerobot_policy_e0 import E0Config

RECOMPUTE = "lerobot-edit-dataset --operation.type=recompute_stats"
MEMORY_SHARE = 0.8  # of what is free
OUTSIDE = 0.05  # of frames outside the stored 1 % and 99 % quantiles, where 0.02 would be right


def policy_config(recording: Recording, config: E0Config) -> tuple[E0Config, list[Finding]]:
    """The configuration with this dataset's features, as LeRobot fills it, and what it refuses."""
    config = copy.deepcopy(config)
    try:
        features = dataset_to_policy_features(_with_tuples(recording.features))
    except (ValueError, TypeError, IndexError, KeyError) as error:
        remedy = "correct the shapes and names in meta/info.json"
        finding = Finding(ERROR, "features", "meta/info.json", str(error), "training fails", remedy)
        config.fill_in(recording.fps)
        return config, [finding]
    config.output_features = {n: f for n, f in features.items() if f.type is FeatureType.ACTION}
    config.input_features = {n: f for n, f in features.items() if n not in config.output_features}
    config.fill_in(recording.fps)
    try:
        config.policy_settings()
    except ValueError as error:
        why = "training refuses it"
        remedy = (
            "lerobot-edit-dataset --operation.type=remove_feature, or convert the recording again"
        )
        return config, [Finding(ERROR, "features", "meta/info.json", str(error), why, remedy)]
    return config, []


def _with_tuples(features: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {**given, "shape": tuple(given["shape"])} for name, given in features.items()}


def check_features(recording: Recording, config: E0Config) -> list[Finding]:
    """Features that cannot be read, and those that the policy would not look at."""
    taken = {ACTION, *(config.input_features or {})}
    findings = [
        Finding(
            ERROR if name in taken else NOTE,
            "unreadable feature",
            name,
            reason,
            "training fails" if name in taken else "the policy does not use it",
            "convert the recording again, or remove it: lerobot-edit-dataset "
            f"--operation.type=remove_feature --operation.feature_names=\"['{name}']\"",
        )
        for name, reason in recording.unreadable.items()
        if name not in BOOKKEEPING
    ]
    known = taken | recording.unreadable.keys() | {*BOOKKEEPING}
    for name in [name for name in recording.features if name not in known]:
        if name.startswith("next."):  # reward and success, which no policy looks at
            continue
        given = recording.features[name]
        picture = name in recording.cameras
        if picture and given.get("info", {}).get("is_depth_map"):
            told, remedy = "depth is no input", "it serves --policy.viewpoint_augmentation alone"
        elif picture:
            told, remedy = (
                "a picture of one channel is no input",
                "store it with three equal channels",
            )
        else:
            told = f"of shape {tuple(given['shape'])}, is no input"
            remedy = f"rename it to observation.{name.split('.')[-1]} if the policy should see it"
        why = "the policy trains without it"
        findings.append(Finding(NOTE, "ignored feature", name, told, why, remedy))
    return findings


def check_statistics(recording: Recording, config: E0Config) -> list[Finding]:
    """Statistics that are missing, or of other data than these."""
    if recording.statistics is None:
        return [
            Finding(
                ERROR,
                "statistics",
                "meta/stats.json",
                "missing",
                "vectors cannot be normalized: training fails",
                RECOMPUTE,
            )
        ]
    needed = {ACTION, *config.vector_features}
    columns = [column for name, column in recording.columns.items() if name in needed]
    by_quantiles = _normalized_by_quantiles(config)
    findings = [
        finding
        for column in columns
        for finding in check_column_statistics(
            column,
            recording.statistics.get(column.feature),
            quantiles=by_quantiles and column.feature != ACTION,
            required=column.feature != ACTION,
        )
    ]
    return findings + check_quantiles(columns, recording.statistics, used=by_quantiles)


def _normalized_by_quantiles(config: E0Config) -> bool:
    return config.normalization_mapping.get("STATE") is NormalizationMode.QUANTILES


def check_column_statistics(
    column: Column, given: dict[str, Any] | None, *, quantiles: bool, required: bool
) -> list[Finding]:
    """One feature's stored statistics against its values. quantiles: q01 and q99 are what it is
    normalized by, not mean and deviation."""
    used = ("q01", "q99") if quantiles else ("mean", "std")
    lacking = [name for name in used if name not in (given or {})]
    level = ERROR if required else WARNING
    why = "inputs are normalized by them"
    if given is None or lacking:
        told = f"no {' and '.join(lacking)}"
        return [Finding(level, "statistics", column.feature, told, why, RECOMPUTE)]
    stored = {name: np.ravel(np.asarray(value, float)) for name, value in given.items()}
    size = len(column.dimensions)
    odd = [n for n in ("min", "max", *used) if n in stored and len(stored[n]) != size]
    bad = [n for n in used if n not in odd and not np.isfinite(stored[n]).all()]
    if odd or bad:
        told = f"{listed(odd)} of another size" if odd else f"{listed(bad)} not finite"
        return [Finding(level, "statistics", column.feature, told, why, RECOMPUTE)]
    if not np.isfinite(column.values).all():
        return []  # said by `check_finite`; there is nothing to compare with
    return _stale(column, stored, required)


def _stale(column: Column, stored: dict[str, np.ndarray], used: bool) -> list[Finding]:
    true = {
        "min": column.values.min(0),
        "max": column.values.max(0),
        "mean": column.values.mean(0),
        "std": column.values.std(0),
    }
    reach = true["max"] - true["min"]
    # float32 sums, and LeRobot's way to put episodes together, are good to about a thousandth.
    rounding = 1e-5 * np.maximum(np.abs(true["min"]), np.abs(true["max"])) + 1e-9
    allowed = {"min": 1e-3 * reach, "max": 1e-3 * reach, "mean": 0.05 * true["std"]}
    allowed["std"] = 0.1 * true["std"] + 1e-3 * (reach == 0) * np.abs(true["mean"])
    wrong = np.zeros(len(reach), bool)
    told = []
    for name, value in true.items():
        if name in stored:
            off = np.abs(stored[name] - value) > allowed[name] + rounding
            if off.any():
                d = int(np.flatnonzero(off)[0])
                told.append(
                    f"{name} of {column.dimensions[d]} {number(stored[name][d])}, in the data "
                    f"{number(value[d])}"
                )
            wrong |= off
    if not wrong.any():
        return []
    return [
        Finding(
            WARNING if used else NOTE,
            "stale statistics",
            column.feature,
            f"meta/stats.json does not describe these data: {'; '.join(told)}",
            "inputs are normalized by them"
            if used
            else "E0 fits its codebooks to the actions themselves, but others normalize by these",
            RECOMPUTE,
            column.names(wrong),
        )
    ]


def check_quantiles(
    columns: list[Column], statistics: dict[str, dict[str, Any]], *, used: bool
) -> list[Finding]:
    """The share of values outside the stored quantiles at 1 % and 99 %, one finding for all
    columns. used: whether the policy normalizes by them."""
    worst: dict[str, float] = {}
    for column in columns:
        given = statistics.get(column.feature, {})
        low, high = (np.ravel(np.asarray(given.get(name, ()), float)) for name in ("q01", "q99"))
        if len(low) != len(column.dimensions) or len(high) != len(low):
            continue
        rounding = 1e-5 * np.abs(column.values).max(0) + 1e-9
        outside = (column.values < low - rounding) | (column.values > high + rounding)
        parts = np.where(column.varies, outside.mean(0), 0.0)
        if parts.max() > OUTSIDE:
            worst[f"{column.feature}[{column.dimensions[parts.argmax()]}]"] = parts.max()
    if not worst:
        return []
    told = listed([f"{share(part)} of {place}" for place, part in worst.items()])
    return [
        Finding(
            WARNING if used else NOTE,
            "quantiles",
            "meta/stats.json",
            f"{told} lie outside the stored q01 to q99, where 2 % should: LeRobot averages the "
            "quantiles of episodes",
            "this preset normalizes by them, so that many inputs lie beyond ±1"
            if used
            else "this policy does not use them; those that do, as pi-0.5, meet inputs beyond ±1",
            "a preset that normalizes by mean and deviation: --policy.preset=paligemma_pi0"
            if used
            else "none needed",
        )
    ]


def bytes_in_memory(recording: Recording) -> int:
    """What `e0 train` keeps: all pictures as uint8 (depths as float32), and all numbers."""
    pictures = sum(
        int(np.prod(given["shape"])) * (4 if given.get("info", {}).get("is_depth_map") else 1)
        for name, given in recording.features.items()
        if name in recording.cameras
    )
    numbers = sum(len(column.dimensions) for column in recording.columns.values())
    return recording.frames * (pictures + 4 * numbers)


def check_memory(needed: int) -> list[Finding]:
    """Bytes that the frames take, against what is free."""
    free = psutil.virtual_memory().available
    if needed <= MEMORY_SHARE * free:
        return []
    smaller = "--policy.image_size=[h,w] keeps them smaller; " * hasattr(E0Config, "image_size")
    return [
        Finding(
            WARNING,
            "memory",
            "pictures",
            f"all decoded frames take {number(needed / 1e9)} GB; {number(free / 1e9)} GB are free",
            "e0 train keeps them in memory, and a machine that runs out of it kills the training",
            f"{smaller}lerobot-train, same flags, decodes as it goes; --dataset.episodes=[...]",
        )
    ]
