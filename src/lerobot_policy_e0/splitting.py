"""Demonstrations that somebody has, cut in two: those to train on, and those held out."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.datasets.dataset_tools import split_dataset

from e0_system.files import place_directory, write_text
from lerobot_policy_e0.whole_dataset import RECORD, own_cache, write_whole


class DemonstrationsError(ValueError):
    """A directory that is no LeRobotDataset, or holds too few episodes."""


def episode_count(source: Path) -> int:
    """Episodes of a LeRobotDataset on this machine. Raises DemonstrationsError if it is none."""
    if not (source / "meta" / "info.json").is_file():
        raise DemonstrationsError(
            f"{source} is no LeRobotDataset: it has no meta/info.json. Name the directory that "
            "`lerobot-record` or `e0 collect` wrote"
        )
    return LeRobotDatasetMetadata(f"local/{source.name}", root=source).total_episodes


def draw_held_out(count: int, held_out: int, seed: int) -> tuple[list[int], list[int]]:
    """Of `count` episodes those to train on and those held out, drawn by the seed.

    Raises DemonstrationsError if none is left to train on."""
    if held_out >= count:
        raise DemonstrationsError(
            f"the dataset has {count} episodes, and {held_out} of them are to be held out; leave "
            "some to train on"
        )
    drawn = set(random.Random(seed).sample(range(count), held_out))
    return [n for n in range(count) if n not in drawn], sorted(drawn)


def take_episodes(source: Path, episodes: Sequence[int], output: Path) -> dict[str, Any]:
    """Write these episodes of a dataset as one of their own, whole or not at all; one that is there
    already, of the same episodes, is left alone. Returns what is kept of it in
    `meta/collection.json`. Raises as `write_whole`."""
    whole = LeRobotDatasetMetadata(f"local/{source.name}", root=source)
    wanted = {"source": str(source), "frames": whole.total_frames, "episodes": list(episodes)}

    def write(partial: Path) -> None:
        with own_cache(partial / "cache"):
            dataset = LeRobotDataset(f"local/{source.name}", root=source)
            split_dataset(dataset, {"dataset": list(episodes)}, output_dir=partial)
        write_text(partial / "dataset" / RECORD, json.dumps(wanted, indent=1))
        place_directory(partial / "dataset", output)

    return write_whole(output, wanted, write)
