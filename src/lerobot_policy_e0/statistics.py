"""Statistics of vector features that a network can be normalized with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lerobot.configs import NormalizationMode
from torch import Tensor

from lerobot_policy_e0.columns import data_files, read_vectors, trained_episodes
from lerobot_policy_e0.configuration_e0 import E0Config

Statistics = dict[str, dict[str, Any]]


def prepare_statistics(config: E0Config, dataset_meta: Any) -> None:
    """Make the statistics of a dataset's vectors those of the episodes that are trained on, and
    usable (`usable_statistics`).

    In place: LeRobot hands these on to the processors, be they new or loaded from a checkpoint.
    """
    vectors = [name for name in config.vector_features if name in dataset_meta.features]
    statistics = dict(dataset_meta.stats or {})
    if trained_episodes(dataset_meta) is not None and data_files(dataset_meta):
        for name, values in read_vectors(dataset_meta, vectors).items():
            statistics[name] = statistics.get(name, {}) | _measured(values)
    usable = {name: _usable(name, statistics.get(name, {}), config) for name in vectors}
    dataset_meta.stats = statistics | usable


def usable_statistics(config: E0Config, statistics: Statistics) -> Statistics:
    """Statistics with deviation 1, or quantiles 2 apart, where a dimension is constant: dividing
    by (almost) zero would turn the smallest difference at test time into a huge input.

    Raises ValueError if a vector feature of the policy has none, or has NaN or infinity.
    """
    usable = {n: _usable(n, statistics.get(n, {}), config) for n in config.vector_features}
    return statistics | usable


def _usable(name: str, given: dict[str, Any], config: E0Config) -> dict[str, Any]:
    quantiles = config.normalization_mapping["STATE"] is NormalizationMode.QUANTILES
    low_name, high_name = ("q01", "q99") if quantiles else ("mean", "std")
    missing = [key for key in (low_name, high_name) if key not in given]
    if missing:
        raise ValueError(
            f"the dataset's statistics lack {' and '.join(missing)} of {name!r}: recompute the "
            "dataset's statistics, or leave the feature out of the policy's input_features"
        )
    numbers = {key: torch.as_tensor(given[key], dtype=torch.float64) for key in given}
    low, high = numbers[low_name], numbers[high_name]
    if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
        raise ValueError(
            f"the statistics of {name!r} hold NaN or infinity: its values do, too, in some "
            "episode; mend these, or leave them out with --dataset.episodes"
        )
    constant = _constant(numbers, low, high - low if quantiles else high)
    unit = low + 2.0 if quantiles else torch.ones_like(high)
    return {**given, high_name: torch.where(constant, unit, high).float()}


def _constant(numbers: dict[str, Tensor], middle: Tensor, spread: Tensor) -> Tensor:
    """Dimensions that do not vary. The extremes tell best: a deviation that was computed batch by
    batch is far from zero for a large constant."""
    least = 1e-6 * middle.abs().clamp_min(1.0)
    if "min" not in numbers or "max" not in numbers:
        return spread <= least
    return (spread <= least) | (numbers["max"] - numbers["min"] <= least)


def _measured(values: np.ndarray) -> dict[str, np.ndarray]:
    """LeRobot's statistics, as far as normalizing needs them, of values (N, size)."""
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    exact = values.astype(np.float64)
    return {
        "min": values.min(0),
        "max": values.max(0),
        "mean": exact.mean(0),
        "std": exact.std(0),
        "q01": low,
        "q99": high,
        "count": np.array([len(values)]),
    }
