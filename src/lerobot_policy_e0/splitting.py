"""Demonstrations that somebody has, cut in two: those to train on, and those held out."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from lerobot.datasets import LeRobotDataset
from lerobot.datasets.dataset_tools import split_dataset

from e0_system.files import place_directory, write_text
from lerobot_policy_e0.whole_dataset import RECORD, OutputInUseError, own_cache, write_whole


class DemonstrationsError(ValueError):
    """Demonstrations that cannot be taken as they are given."""


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


def take_episodes(source: Path, episodes: Sequence[int], output: Path) -> None:
    """Write these episodes of a dataset as one of their own, whole or not at all; one that is there
    already, of the same episodes, is left alone. Videos that hold episodes of both kinds are
    encoded once more.

    Raises DemonstrationsError if other episodes lie there, or the source has changed since, and
    else as `write_whole`."""
    wanted = {"source": str(source), "digest": _digest(source), "episodes": list(episodes)}

    def write(partial: Path) -> None:
        draft = partial / "dataset"
        shutil.rmtree(draft, ignore_errors=True)
        with own_cache(partial / "cache"):
            dataset = LeRobotDataset(f"local/{source.name}", root=source)
            split_dataset(dataset, {draft.name: list(episodes)}, output_dir=partial)
        write_text(draft / RECORD, json.dumps(wanted, indent=1))
        place_directory(draft, output)

    try:
        write_whole(output, wanted, write)
    except OutputInUseError as error:
        raise DemonstrationsError(
            f"{output} does not hold the episodes of {source} that belong there: it is something "
            "else, or the source has changed since; choose another output directory"
        ) from error


def _digest(source: Path) -> str:
    """Of all numbers of a dataset, and of pictures that lie beside them."""
    digest = hashlib.sha256()
    for file in sorted((source / "data").rglob("*.parquet")):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
