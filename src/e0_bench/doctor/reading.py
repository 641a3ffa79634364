"""A LeRobotDataset v3 as columns of numbers, read from its files alone, without its pictures.

The files are read without LeRobot's classes, since these refuse many a broken dataset without
saying which file or episode is at fault.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

INFO, STATISTICS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
PICTURES = ("image", "video")
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
CONVERTER = "python -m lerobot.scripts.convert_dataset_v21_to_v30"


class DatasetError(ValueError):
    """A directory that cannot be read as a LeRobotDataset v3; the message says why."""


@dataclass(frozen=True, eq=False)
class Column:
    """A vector feature: values (N, D), of which N rows belong to E episodes one after another.

    dimensions: D names. starts: (E,) first row of each episode. episodes: (E,) their indices.
    """

    feature: str
    dimensions: tuple[str, ...]
    values: np.ndarray
    starts: np.ndarray
    episodes: np.ndarray

    @cached_property
    def episode_of(self) -> np.ndarray:
        """Episode index of every row, (N,)."""
        lengths = np.diff(np.append(self.starts, len(self.values)))
        return np.repeat(self.episodes, lengths)

    @cached_property
    def varies(self) -> np.ndarray:
        """Which dimensions take more than one value, (D,) bool. Values that are no number count
        for nothing."""
        values = np.where(np.isfinite(self.values), self.values, np.nan)
        known = np.isfinite(self.values).any(0)
        varies = np.zeros(len(self.dimensions), bool)
        varies[known] = np.nanmax(values[:, known], 0) > np.nanmin(values[:, known], 0)
        return varies

    @cached_property
    def inside(self) -> np.ndarray:
        """Rows whose next row is of the same episode, (N - E,) indices."""
        last = np.append(self.starts[1:], len(self.values)) - 1
        return np.setdiff1d(np.arange(len(self.values)), last)

    def names(self, chosen: np.ndarray) -> tuple[str, ...]:
        """The names of dimensions given by a mask or by indices."""
        return tuple(np.array(self.dimensions, dtype=object)[chosen])

    def affected(self, rows: np.ndarray) -> tuple[int, ...]:
        """Indices of the episodes that have a row of this mask (N,)."""
        return tuple(int(episode) for episode in np.unique(self.episode_of[rows]))

    def split(self) -> Iterator[tuple[int, np.ndarray]]:
        """Each episode's index and values (T, D)."""
        parts = np.split(self.values, self.starts[1:])
        return zip(map(int, self.episodes), parts, strict=True)


@dataclass(frozen=True, eq=False)
class Recording:
    """A dataset without its pictures.

    features: as meta/info.json describes them. columns: every vector of numbers. unreadable: those
    that are not what they are described as, with what they are. timestamps: (N,) seconds.
    task_index: (N,). tasks: index to text. statistics: None where there are none. episode_rows:
    one row of meta/episodes for each episode. file_rows: each data file and its number of rows.
    """

    root: Path
    repo_id: str
    fps: float
    features: dict[str, dict[str, Any]]
    columns: dict[str, Column]
    unreadable: dict[str, str]
    timestamps: np.ndarray
    task_index: np.ndarray
    tasks: dict[int, Any]
    statistics: dict[str, dict[str, Any]] | None
    episode_rows: dict[int, dict[str, Any]]
    starts: np.ndarray
    episodes: np.ndarray
    file_rows: list[tuple[Path, int]]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        return len(self.timestamps)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(np.append(self.starts, self.frames))

    @property
    def cameras(self) -> list[str]:
        return [name for name, given in self.features.items() if given["dtype"] in PICTURES]


def read_recording(root: Path, repo_id: str | None = None) -> Recording:
    """Read a dataset's numbers and descriptions. Raises DatasetError where there is none."""
    info = _read_info(root)
    features: dict[str, dict[str, Any]] = info["features"]
    wanted = [n for n, f in features.items() if f["dtype"] not in PICTURES]
    files = sorted((root / "data").glob("*/*.parquet"))
    tables = [_read_table(file, wanted) for file in files]
    if not sum(len(table) for table in tables):
        raise DatasetError(f"{root} holds no recorded frames under data/: record an episode first")
    arrays: dict[str, np.ndarray] = {}
    unreadable: dict[str, str] = {}
    for name in wanted:
        try:
            parts = [_numbers(table, name, features[name]) for table in tables]
            arrays[name] = np.concatenate(parts)
        except _NotNumbers as reason:
            unreadable[name] = str(reason)
    missing = [n for n in ("timestamp", "episode_index", "task_index") if n not in arrays]
    if missing:
        raise DatasetError(f"{root} lacks the columns {', '.join(missing)} in data/*/*.parquet")
    episode_of = arrays["episode_index"][:, 0].astype(int)
    starts = np.flatnonzero(np.diff(episode_of, prepend=episode_of[0] - 1))
    return Recording(
        root=root,
        repo_id=repo_id or f"local/{root.resolve().name}",
        fps=float(info["fps"]),
        features=features,
        columns={
            name: Column(
                name, _dimension_names(features[name], values), values, starts, episode_of[starts]
            )
            for name, values in arrays.items()
            if name not in BOOKKEEPING
        },
        unreadable=unreadable,
        timestamps=arrays["timestamp"][:, 0],
        task_index=arrays["task_index"][:, 0].astype(int),
        tasks=_read_tasks(root),
        statistics=_read_json(root / STATISTICS) if (root / STATISTICS).is_file() else None,
        episode_rows=_read_episode_rows(root),
        starts=starts,
        episodes=episode_of[starts],
        file_rows=[(file, len(table)) for file, table in zip(files, tables, strict=True)],
        info=info,
    )


class _NotNumbers(Exception):
    """A column that cannot be taken as vectors of numbers."""


def _read_info(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise DatasetError(f"no such directory: {root}")
    if not (root / INFO).is_file():
        raise DatasetError(
            f"{root} is no LeRobotDataset: it has no {INFO}; give the directory that holds meta/ "
            "and data/"
        )
    info = _read_json(root / INFO)
    lacking = [key for key in ("codebase_version", "fps", "features") if key not in info]
    if lacking:
        raise DatasetError(f"{root / INFO} lacks {', '.join(lacking)}")
    version = str(info["codebase_version"])
    if not version.startswith("v3"):
        raise DatasetError(
            f"{root} is a LeRobotDataset {version}, and v3 is read: convert it with {CONVERTER} "
            "--repo-id=REPO --root=DIRECTORY"
        )
    if not isinstance(info["fps"], int | float) or not info["fps"] > 0:
        raise DatasetError(f"{root / INFO} says fps {info['fps']}: it must be a positive number")
    return info


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise DatasetError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path} is damaged: it holds a {type(content).__name__}, no object")
    return content


def _read(path: Path, read: Callable[[Path], pyarrow.Table]) -> pyarrow.Table:
    try:
        return read(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DatasetError(f"{path} is damaged or missing: {error}") from error


def _read_table(file: Path, wanted: list[str]) -> pyarrow.Table:
    """The wanted columns that the file has."""

    def read(path: Path) -> pyarrow.Table:
        there = pyarrow.parquet.read_schema(path).names
        return pyarrow.parquet.read_table(path, columns=[n for n in wanted if n in there])

    return _read(file, read)


def _numbers(table: pyarrow.Table, name: str, description: dict[str, Any]) -> np.ndarray:
    """A column as float64 (N, D). Raises _NotNumbers."""
    shape = tuple(description["shape"])
    if name not in table.column_names:
        raise _NotNumbers("described in meta/info.json and missing in data/*/*.parquet")
    if len(shape) > 1:
        raise _NotNumbers(f"of shape {shape}, where a policy takes vectors")
    column = table[name].combine_chunks()
    flat = column.flatten() if pyarrow.types.is_nested(column.type) else column
    if not (
        pyarrow.types.is_integer(flat.type)
        or pyarrow.types.is_floating(flat.type)
        or pyarrow.types.is_boolean(flat.type)
    ):
        raise _NotNumbers(f"of type {flat.type}, where a policy takes numbers")
    size = shape[0] if shape else 1
    if len(flat) != len(column) * size:
        raise _NotNumbers(
            f"holding {len(flat) / max(len(column), 1):g} numbers a frame, where meta/info.json "
            f"says {size}"
        )
    values = flat.to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.float64).reshape(-1, size)


def _dimension_names(description: dict[str, Any], values: np.ndarray) -> tuple[str, ...]:
    """The described names, or the indices where these are missing or of another number."""
    names = description.get("names")
    while isinstance(names, dict):  # {"motors": [...]}
        names = next(iter(names.values()), None)
    size = values.shape[1]
    fits = isinstance(names, list) and len(names) == size
    return tuple(map(str, names if fits and names else range(size)))


def _read_tasks(root: Path) -> dict[int, Any]:
    """Task index to text."""
    if not (root / TASKS).is_file():
        return {}
    rows = _read(root / TASKS, pyarrow.parquet.read_table).to_pylist()
    named = [(row.get("task", row.get("__index_level_0__")), row["task_index"]) for row in rows]
    return {index: text for text, index in named}


def _read_episode_rows(root: Path) -> dict[int, dict[str, Any]]:
    """Episode index to its row of meta/episodes."""
    rows: dict[int, dict[str, Any]] = {}
    for file in sorted((root / "meta/episodes").glob("*/*.parquet")):
        rows |= {row["episode_index"]: row for row in _read(file, _read_rows).to_pylist()}
    return rows


def _read_rows(file: Path) -> pyarrow.Table:
    """Everything but statistics, of which the pictures' ones are kept."""
    names = pyarrow.parquet.read_schema(file).names
    kept = [name for name in names if not name.startswith("stats/") or _of_pictures(name)]
    return pyarrow.parquet.read_table(file, columns=kept)


def _of_pictures(name: str) -> bool:
    return "image" in name and name.rpartition("/")[2] in ("max", "std")
