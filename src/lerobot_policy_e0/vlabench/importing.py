"""Demonstrations of VLABench -> a LeRobotDataset v3.

All numbers are checked before anything is written. Episodes are then written as small datasets
beside the output, which are joined at the end; those that a stopped import has finished are not
written again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import batched
from json import dumps
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from lerobot.datasets import LeRobotDataset
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from tqdm import tqdm

from e0_system.files import place_directory, write_text
from lerobot_policy_e0.vlabench.converted import converted_files, is_converted, read_data_file
from lerobot_policy_e0.vlabench.demonstration import (
    ACTION_NAMES,
    FRAME_RATE,
    PICTURE,
    STATE_NAMES,
    Demonstration,
    DemonstrationError,
    check_together,
    count_angles_without_jumps,
)
from lerobot_policy_e0.vlabench.hdf5 import read_file
from lerobot_policy_e0.whole_dataset import RECORD, join_datasets, write_whole

CAMERAS = (f"{OBS_IMAGES}.image", f"{OBS_IMAGES}.wrist_image")  # as `e0 serve` knows them
EPISODES_OF_A_PART = 20  # at most so many are written again after a stop
SHOWN = 10  # of the recordings that are refused


def import_demonstrations(
    sources: Sequence[Path], output: Path, *, use_videos: bool = False
) -> dict[str, Any]:
    """Write VLABench's demonstrations as a LeRobotDataset at `output`, and return its record, which
    is also kept in `meta/collection.json`.

    sources: HDF5 files, directories with some, LeRobotDatasets that VLABench converted.

    Raises DemonstrationError naming everything that cannot be taken, before anything is written
    unless it is a picture; and what `write_whole` raises.
    """
    checked = _checked(_files(sources))
    check_together(checked)
    demonstrations, from_zero = count_angles_without_jumps(checked)
    wanted = {
        "episodes": [demonstration.digest for demonstration in demonstrations],
        "actions_counted_from_0_to_2pi": from_zero,
        "videos": use_videos,
    }

    def write(partial: Path) -> None:
        _write(partial, output, demonstrations, wanted)

    return write_whole(output, wanted, write)


def _files(sources: Sequence[Path]) -> list[Path]:
    """The files with demonstrations, each once; of a directory in the order of their numbers."""
    found: dict[Path, Path] = {}
    for source in sources:
        if is_converted(source):
            files = converted_files(source)
        elif source.is_dir():
            files = sorted(source.rglob("*.hdf5"), key=_in_order)
        else:
            files = [source]
        if not files or not files[0].is_file():
            raise DemonstrationError(
                f"{source} holds no demonstrations of VLABench: give its *.hdf5 files, directories "
                "with some, or LeRobotDatasets that it converted"
            )
        found |= {file.resolve(): file for file in files}
    return list(found.values())


def _in_order(file: Path) -> list[tuple[str, int]]:
    """data_2 before data_10."""
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", str(file))]


def _checked(files: Sequence[Path]) -> list[Demonstration]:
    """All episodes of the files. Raises DemonstrationError telling of all that are refused."""
    demonstrations: list[Demonstration] = []
    refused: list[str] = []
    for file in tqdm(files, desc="Checking", unit="file"):
        try:
            read = read_data_file if file.suffix == ".parquet" else read_file
            demonstrations += read(file)
        except DemonstrationError as error:
            refused.append(str(error))
    if refused:
        more = f"\n... and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
        raise DemonstrationError(
            f"{len(refused)} of {len(files)} files cannot be imported, and nothing was:\n"
            + "\n".join(refused[:SHOWN])
            + more
        )
    return demonstrations


def _write(
    partial: Path, output: Path, demonstrations: Sequence[Demonstration], wanted: dict[str, Any]
) -> None:
    """Write the parts that are missing, and all of them as `output`."""
    draft = partial / "dataset"
    parts = dict(_parts(partial / "parts", demonstrations, wanted["videos"]))
    for part in (partial / "parts").glob("*"):
        if part not in parts:  # of other demonstrations
            shutil.rmtree(part)
    done = sum(len(d.states) for part, some in parts.items() if part.exists() for d in some)
    total = sum(len(demonstration.states) for demonstration in demonstrations)
    with tqdm(total=total, initial=done, desc="Importing", unit="frame") as bar:
        for part, some in parts.items():
            if not part.exists():
                shutil.rmtree(draft, ignore_errors=True)
                _write_part(draft, part.name, some, wanted["videos"], bar)
                part.parent.mkdir(exist_ok=True)
                place_directory(draft, part)
    join_datasets(list(parts), draft, output.name, partial / "cache")
    places = [demonstration.place for demonstration in demonstrations]
    write_text(draft / RECORD, dumps(wanted | {"from": places}, indent=1))
    place_directory(draft, output)


def _parts(
    directory: Path, demonstrations: Sequence[Demonstration], use_videos: bool
) -> Iterator[tuple[Path, tuple[Demonstration, ...]]]:
    """The directories of the parts, whose names say what is in them, with their episodes."""
    for number, some in enumerate(batched(demonstrations, EPISODES_OF_A_PART)):
        content = dumps([use_videos, *(demonstration.digest for demonstration in some)])
        yield directory / f"{number:06}_{sha256(content.encode()).hexdigest()[:16]}", some


def _write_part(
    root: Path, name: str, demonstrations: Sequence[Demonstration], use_videos: bool, bar: tqdm[Any]
) -> None:
    disable_progress_bars()  # LeRobot's own, one for every episode
    dataset = LeRobotDataset.create(
        f"local/{name}",
        FRAME_RATE,
        _features(use_videos),
        root=root,
        robot_type="franka",
        use_videos=use_videos,
    )
    for demonstration in demonstrations:
        pictures = demonstration.load()
        for step, both in enumerate(pictures):
            dataset.add_frame(
                {
                    OBS_STATE: demonstration.states[step],
                    ACTION: demonstration.actions[step],
                    **dict(zip(CAMERAS, both, strict=True)),
                    "task": demonstration.instruction,
                }
            )
            bar.update()
        dataset.save_episode()
    dataset.finalize()


def _features(use_videos: bool) -> dict[str, Any]:
    picture = {
        "dtype": "video" if use_videos else "image",
        "shape": PICTURE,
        "names": ["height", "width", "channels"],
    }
    return {
        OBS_STATE: {"dtype": "float32", "shape": (7,), "names": STATE_NAMES},
        ACTION: {"dtype": "float32", "shape": (7,), "names": ACTION_NAMES},
        **{camera: dict(picture) for camera in CAMERAS},
    }
