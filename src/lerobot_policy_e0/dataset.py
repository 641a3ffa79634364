"""Reading LeRobotDatasets: all actions, to fit the codebooks, and all frames, to keep in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from lerobot.datasets import LeRobotDataset
from lerobot.utils.constants import ACTION
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm


def read_actions(dataset_meta: Any) -> Tensor:
    """All actions (N, D) of a LeRobotDataset v3, from its parquet files alone.

    Raises ValueError if the dataset has no action feature, no frames, or actions of another size
    than its description says.
    """
    if ACTION not in dataset_meta.features:
        raise ValueError(
            f"dataset {dataset_meta.repo_id!r} has no feature {ACTION!r}, only "
            f"{sorted(dataset_meta.features)}: a policy cannot be trained on it"
        )
    size = dataset_meta.features[ACTION]["shape"][0]
    files = sorted((Path(dataset_meta.root) / "data").glob("*/*.parquet"))
    parts = [_column(file, size) for file in files]
    actions = np.concatenate(parts) if parts else np.empty((0, size), np.float32)
    if len(actions) == 0:
        raise ValueError(
            f"dataset {dataset_meta.repo_id!r} has no recorded steps under {dataset_meta.root}: "
            "record or collect at least one episode"
        )
    return torch.from_numpy(actions)


def _column(file: Path, size: int) -> np.ndarray:
    column = pyarrow.parquet.read_table(file, columns=[ACTION])[ACTION].combine_chunks()
    flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
    if flat.size != len(column) * size:
        raise ValueError(
            f"{file.name} holds actions of {flat.size / max(len(column), 1):g} numbers, the "
            f"dataset's description says {size}"
        )
    return flat.reshape(-1, size)


class FramesInMemory(Dataset):
    """A LeRobotDataset whose frames are decoded once and kept in memory, images as uint8 (and
    depths as float32).

    Decoding pictures for every sample takes longer than a small policy's training step; this takes
    one pass over the dataset and `number of frames · bytes per image` of memory. Items equal those
    of the wrapped dataset (images as uint8, which LeRobot's training loop takes as well).

    Raises ValueError for a streamed dataset, and for one with image transforms: they must differ
    at every access.
    """

    def __init__(self, dataset: LeRobotDataset) -> None:
        if not isinstance(dataset, LeRobotDataset):
            raise ValueError(
                f"frames in memory need a LeRobotDataset, got a {type(dataset).__name__}; turn "
                "dataset.streaming off or load without this cache"
            )
        if dataset.image_transforms is not None:
            raise ValueError(
                "frames in memory would freeze the dataset's random image transforms; turn the "
                "transforms off or load without this cache"
            )
        self.meta = dataset.meta
        self.delta_indices: dict[str, list[int]] = dataset.reader.delta_indices or {}
        self.columns = _decode_once(dataset)
        episodes = self.columns["episode_index"].numpy()
        first = np.flatnonzero(np.diff(episodes, prepend=-1))
        lengths = np.diff(np.append(first, len(episodes)))
        self._first = torch.from_numpy(np.repeat(first, lengths))
        self._last = torch.from_numpy(np.repeat(first + lengths - 1, lengths))
        tasks: Any = dataset.meta.tasks
        self._tasks = [str(name) for name in tasks.sort_values("task_index").index]

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {name: column[index] for name, column in self.columns.items()}
        for name, deltas in self.delta_indices.items():
            wanted = index + torch.tensor(deltas)
            inside = wanted.clamp(self._first[index], self._last[index])
            item[name] = self.columns[name][inside]
            item[f"{name}_is_pad"] = wanted != inside
        item["task"] = self._tasks[int(item["task_index"])]
        return item


def _decode_once(dataset: LeRobotDataset) -> dict[str, Tensor]:
    """Every feature of every frame, stacked (N, ...)."""
    frames = LeRobotDataset(
        dataset.repo_id,
        root=dataset.root,
        episodes=dataset.episodes,
        tolerance_s=dataset.tolerance_s,
        return_uint8=True,
        depth_output_unit=dataset.depth_output_unit,
    )
    colour = set(dataset.meta.camera_keys) - set(dataset.meta.depth_keys)
    columns: dict[str, Tensor] = {}
    with _one_thread():
        for index in tqdm(range(len(frames)), desc="Decoding frames", unit="frame"):
            frame: dict[str, Any] = frames[index]  # pyright: ignore[reportAssignmentType]
            for name, value in frame.items():
                if not isinstance(value, Tensor):
                    continue
                if name in colour and value.is_floating_point():
                    value = (value * 255).round().to(torch.uint8)
                if name not in columns:
                    columns[name] = value.new_empty((len(frames), *value.shape))
                columns[name][index] = value
    return columns


@contextmanager
def _one_thread() -> Iterator[None]:
    """Operations on single frames are short: several threads gain nothing, and where another
    program keeps a core busy they wait for each other far longer than the work takes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
