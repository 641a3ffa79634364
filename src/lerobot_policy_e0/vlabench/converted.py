"""Datasets that VLABench's own conversion made of its HDF5 files: LeRobot v2.0 or v2.1.

A file for each episode, with the columns `image` and `wrist_image` (PNG), `state` (7,) and
`actions` (7,): what E0 trains on by other names. Version 3 of the same is read too.

Source: scripts/convert_to_lerobot.py of OpenMOSS/VLABench 47b04bf5.
"""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from lerobot_policy_e0.vlabench.demonstration import (
    FRAME_RATE,
    PICTURE,
    Demonstration,
    DemonstrationError,
    check_numbers,
)

INFO = Path("meta") / "info.json"
TASKS, TASKS_OF_V3 = Path("meta") / "tasks.jsonl", Path("meta") / "tasks.parquet"
STATE, ACTIONS = "state", "actions"
CAMERAS = ("image", "wrist_image")
EPISODE, TASK = "episode_index", "task_index"


def is_converted(directory: Path) -> bool:
    """Whether a directory holds a LeRobotDataset, of whatever version."""
    return (directory / INFO).is_file()


def converted_files(root: Path) -> list[Path]:
    """The data files of a dataset that VLABench's conversion made.

    Raises DemonstrationError, naming file and key, if it is another dataset.
    """
    path = root / INFO
    try:
        info = json.loads(path.read_text())
        features, rate = info["features"], info["fps"]
        kinds = {name: features[name]["dtype"] for name in features}
    except (ValueError, KeyError, TypeError) as error:
        raise DemonstrationError(f"{path} is damaged: {error!r}; copy it again") from error
    missing = [name for name in (STATE, ACTIONS, *CAMERAS) if name not in features]
    if missing:
        raise DemonstrationError(
            f"{path} has no {', '.join(missing)}; there are {', '.join(features)}. Expected what "
            "VLABench's convert_to_lerobot.py writes; what has observation.state and action by now "
            "needs no import"
        )
    for name in CAMERAS:
        if kinds[name] != "image":
            raise DemonstrationError(
                f"{path}: {name} is stored as {kinds[name]}, and images alone are read; import the "
                "HDF5 files instead"
            )
    if rate != FRAME_RATE:
        raise DemonstrationError(f"{path}: {rate} frames a second; expected {FRAME_RATE}")
    files = sorted((root / "data").glob("*/*.parquet"))
    if not files:
        raise DemonstrationError(f"{root} has no data/*/*.parquet; copy it again")
    return files


def read_data_file(file: Path) -> list[Demonstration]:
    """All episodes of a data file, without their pictures.

    Raises DemonstrationError naming the file, the episode and what is wrong with it.
    """
    table = _read(file, [STATE, ACTIONS, EPISODE, TASK])
    tasks = _tasks(file.parents[2])
    episodes = table[EPISODE].to_numpy()
    states, actions = (_vectors(file, table, name) for name in (STATE, ACTIONS))
    demonstrations = []
    for episode in map(int, np.unique(episodes)):
        place, rows = f"{file}, episode {episode}", episodes == episode
        check_numbers(place, states[rows], actions[rows])
        task = table[TASK].to_numpy()[rows][0]
        instruction = str(tasks.get(task, "")).strip()
        if not instruction:
            raise DemonstrationError(
                f"{place}: meta/tasks has no instruction for task {task}; write one into it"
            )
        load = partial(_load_pictures, file, episode)
        demonstrations.append(Demonstration(place, instruction, states[rows], actions[rows], load))
    return demonstrations


def _tasks(root: Path) -> dict[int, str]:
    """The instructions by their numbers."""
    path = root / TASKS
    try:
        if path.is_file():
            rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
            return {row["task_index"]: row["task"] for row in rows}
        path = root / TASKS_OF_V3
        rows = pyarrow.parquet.read_table(path).to_pylist()
        return {row["task_index"]: row.get("task", row.get("__index_level_0__")) for row in rows}
    except (OSError, ValueError, KeyError) as error:
        raise DemonstrationError(f"{path} cannot be read: {error!r}; copy it again") from error


def _read(file: Path, columns: list[str], **options: Any) -> pyarrow.Table:
    try:
        table = pyarrow.parquet.read_table(file, columns=columns, **options)
    except (OSError, ValueError) as error:
        raise DemonstrationError(f"{file} cannot be read: {error}; copy it again") from error
    missing = set(columns) - set(table.column_names)
    if missing:
        raise DemonstrationError(f"{file} has no column {', '.join(sorted(missing))}")
    return table


def _vectors(file: Path, table: pyarrow.Table, name: str) -> np.ndarray:
    """A column as float32 (T, 7)."""
    rows = table[name].to_pylist()
    if any(row is None or len(row) != 7 for row in rows):
        raise DemonstrationError(f"{file}: {name} has not 7 numbers in every frame")
    return np.array(rows, np.float32)


def _load_pictures(file: Path, episode: int) -> np.ndarray:
    """The pictures (T, 2, 480, 480, 3) of the camera in front and on the wrist."""
    table = _read(file, list(CAMERAS), filters=[(EPISODE, "==", episode)])
    cells = zip(*(table[name].to_pylist() for name in CAMERAS), strict=True)
    return np.array([[_picture(file, episode, cell) for cell in both] for both in cells])


def _picture(file: Path, episode: int, cell: dict[str, Any]) -> np.ndarray:
    place = f"{file}, episode {episode}"
    try:
        with Image.open(io.BytesIO(cell["bytes"])) as opened:
            picture = np.asarray(opened.convert("RGB"))
    except (OSError, TypeError, KeyError) as error:
        raise DemonstrationError(f"{place}: a picture cannot be read: {error!r}") from error
    if picture.shape != PICTURE:
        raise DemonstrationError(f"{place}: a picture of {picture.shape}; expected {PICTURE}")
    return picture
