"""All frames of a LeRobotDataset, decoded once and kept in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from lerobot.datasets import LeRobotDataset
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from e0.network.vision import resize

CONTROL_GROUP = Path("/sys/fs/cgroup")  # of this process, where a container or a scheduler has one


class FramesInMemory(Dataset):
    """A LeRobotDataset whose frames are decoded once and kept in memory, images as uint8 (and
    depths as float32).

    Decoding pictures for every sample takes longer than a small policy's training step; this takes
    one pass over the dataset and `number of frames · bytes per image` of memory. Items equal those
    of the wrapped dataset (images as uint8, which LeRobot's training loop takes as well).

    picture_size: height and width to which larger pictures are brought as the network does it
    (`e0.network.vision.resize`), with `antialias` or not; None keeps them as they are.

    Raises ValueError for a streamed dataset, for one with image transforms, which must differ at
    every access, and for one that does not fit into memory.
    """

    def __init__(
        self,
        dataset: LeRobotDataset,
        picture_size: tuple[int, int] | None = None,
        *,
        antialias: bool = True,
    ) -> None:
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
        _require_memory(bytes_needed(dataset, picture_size))
        self.columns = _decode_once(dataset, picture_size, antialias)
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


def bytes_needed(dataset: LeRobotDataset, picture_size: tuple[int, int] | None) -> int:
    """What the pictures of a dataset take in memory, by its description."""
    meta = dataset.meta
    frame = 0
    for name in meta.camera_keys:
        sizes = dict(zip(meta.names[name], meta.shapes[name], strict=True))
        height, width = sizes["height"], sizes["width"]
        if name in meta.depth_keys:
            frame += 4 * height * width
            continue
        if picture_size is not None and _is_larger((height, width), picture_size):
            height, width = picture_size
        frame += 3 * height * width
    return frame * len(dataset)


def memory_available() -> int:
    """Bytes that this machine, or the control group that this process runs in, has left."""
    free = psutil.virtual_memory().available
    limit, used = CONTROL_GROUP / "memory.max", CONTROL_GROUP / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def _require_memory(needed: int) -> None:
    """Raise ValueError if the pictures of all processes of this machine take more than is left."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free = memory_available()
    if needed * processes > free:
        each = f" in each of {processes} processes" if processes > 1 else ""
        raise ValueError(
            f"keeping all pictures in memory takes {needed / 1e9:.1f} GB{each}, and "
            f"{free / 1e9:.1f} GB are left. Without augmentation smaller pictures are kept "
            "(--policy.image_size=[96,128]); --dataset.episodes=[0,1,2] trains on fewer episodes; "
            "lerobot-train takes the same flags and reads from disk"
        )


def _is_larger(size: tuple[int, int], than: tuple[int, int]) -> bool:
    return size[0] * size[1] > than[0] * than[1]


def _decode_once(
    dataset: LeRobotDataset, picture_size: tuple[int, int] | None, antialias: bool
) -> dict[str, Tensor]:
    """Every feature of every frame, stacked (N, ...)."""
    frames = LeRobotDataset(
        dataset.repo_id,
        root=dataset.root,
        episodes=dataset.episodes,
        tolerance_s=dataset.tolerance_s,
        revision=dataset.revision,
        video_backend=dataset._video_backend,
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
                if name in colour and picture_size is not None:
                    value = _shrunk(value, picture_size, antialias)
                if name not in columns:
                    columns[name] = value.new_empty((len(frames), *value.shape))
                columns[name][index] = value
    return columns


def _shrunk(picture: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    """A picture (C, H, W) of bytes, in the network's size if it is larger."""
    height, width = picture.shape[-2:]
    if not _is_larger((height, width), size):
        return picture
    smaller = resize(picture[None].float(), size, antialias)[0]
    return smaller.round().clamp(0, 255).to(torch.uint8)


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
