"""The numbers of a LeRobotDataset that are trained on, read from its parquet files alone."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute
import pyarrow.parquet
import torch
from lerobot.datasets import LeRobotDataset, StreamingLeRobotDataset
from lerobot.utils.constants import ACTION
from torch import Tensor


def read_actions(dataset_meta: Any) -> Tensor:
    """All actions (N, D) that are trained on of a LeRobotDataset v3, from its parquet files alone.

    Raises ValueError if the dataset has no action feature, no frames, or actions of another size
    than its description says.
    """
    if ACTION not in dataset_meta.features:
        raise ValueError(
            f"dataset {dataset_meta.repo_id!r} has no feature {ACTION!r}, only "
            f"{sorted(dataset_meta.features)}: a policy cannot be trained on it"
        )
    actions = read_vectors(dataset_meta, [ACTION])[ACTION]
    if len(actions) == 0:
        raise ValueError(
            f"dataset {dataset_meta.repo_id!r} has no recorded steps under {dataset_meta.root}: "
            "record or collect at least one episode"
        )
    return torch.from_numpy(actions)


def read_vectors(dataset_meta: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Vector features (N, size) of all steps that are trained on, from the parquet files alone."""
    sizes = {name: dataset_meta.features[name]["shape"][0] for name in names}
    episodes = trained_episodes(dataset_meta)
    parts = [_columns(file, sizes, episodes) for file in data_files(dataset_meta)]
    nothing = {name: np.empty((0, size), np.float32) for name, size in sizes.items()}
    return {name: np.concatenate([part[name] for part in [nothing, *parts]]) for name in names}


def data_files(dataset_meta: Any) -> list[Path]:
    """The parquet files of a dataset that are on this disk: none of one that is streamed."""
    return sorted((Path(dataset_meta.root) / "data").glob("*/*.parquet"))


def trained_episodes(dataset_meta: Any) -> list[int] | None:
    """The episodes that are trained on, None for all of them.

    LeRobot hands policies the description of the whole dataset, and not which episodes were left
    out (`--dataset.episodes`, `--dataset.eval_split`). The dataset that holds this description
    knows, so it is looked for among what refers to it.
    """
    holders = [_attributes(holder) for holder in gc.get_referrers(dataset_meta)]
    chosen = [h["episodes"] for h in holders if h.get("meta") is dataset_meta and "episodes" in h]
    if not chosen or any(episodes is None for episodes in chosen):
        return None
    return sorted({int(episode) for episodes in chosen for episode in episodes})


def _attributes(holder: object) -> dict[str, Any]:
    """Those of a dataset; Python tells the dataset itself or the dictionary of its attributes."""
    if isinstance(holder, LeRobotDataset | StreamingLeRobotDataset):
        return vars(holder)
    return holder if isinstance(holder, dict) and "delta_timestamps" in holder else {}


def _columns(
    file: Path, sizes: Mapping[str, int], episodes: list[int] | None
) -> dict[str, np.ndarray]:
    table = pyarrow.parquet.read_table(file, columns=[*sizes, "episode_index"])
    if episodes is not None:
        table = table.filter(pyarrow.compute.field("episode_index").isin(episodes))
    return {name: _column(table, name, size, file) for name, size in sizes.items()}


def _column(table: pyarrow.Table, name: str, size: int, file: Path) -> np.ndarray:
    column = table[name].combine_chunks()
    nested = pyarrow.types.is_nested(column.type)  # a feature of one number is a plain column
    values = column.flatten() if nested else column
    flat = np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float32)
    if flat.size != len(column) * size:
        raise ValueError(
            f"{file.name} holds {name!r} of {flat.size / max(len(column), 1):g} numbers, the "
            f"dataset's description says {size}"
        )
    return flat.reshape(-1, size)
