"""A sample of the pictures: some frames of some episodes of every camera."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from lerobot.datasets.video_utils import decode_video_frames
from lerobot.utils.import_utils import get_safe_default_video_backend
from PIL import Image
from tqdm import tqdm

from e0_bench.doctor.checks_episodes import TOLERANCE
from e0_bench.doctor.reading import Recording

EPISODES = 16  # evenly spread, besides those that their statistics make suspicious
FRAMES = 6  # of each, evenly spread
DARK, FLAT = 0.05, 0.02  # of full brightness: largest value, deviation


@dataclass(eq=False)
class Sample:
    """One camera's sampled frames: episode to uint8 (F, h, w, 3), and what could not be read."""

    camera: str
    frames: dict[int, np.ndarray] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)


def sample_pictures(recording: Recording) -> list[Sample]:
    """Decode the sample, with a progress bar. Depth and monochrome pictures are left out; what
    cannot be decoded is told in `failures`."""
    cameras = [name for name in recording.cameras if _has_colour(recording.features[name])]
    samples = {name: Sample(name) for name in cameras}
    wanted = {name: _episodes(recording, name) for name in cameras}
    stored = [name for name in cameras if recording.features[name]["dtype"] == "image"]
    total = sum(len(episodes) for episodes in wanted.values())
    with tqdm(total=total, desc="Looking at pictures", unit="episode", disable=not total) as bar:
        for name, episode, frames in _stored_frames(recording, {n: wanted[n] for n in stored}):
            _keep(samples[name], episode, frames)
            bar.update()
        for name in [name for name in cameras if name not in stored]:
            for episode in wanted[name]:
                _keep(samples[name], episode, _video_frames(recording, name, episode))
                bar.update()
    return list(samples.values())


def _keep(sample: Sample, episode: int, frames: np.ndarray | str) -> None:
    if isinstance(frames, str):
        sample.failures[episode] = frames
    else:
        sample.frames[episode] = frames


def _has_colour(description: dict[str, Any]) -> bool:
    return 3 in description["shape"] and not description.get("info", {}).get("is_depth_map")


def _episodes(recording: Recording, camera: str) -> list[int]:
    """Episode indices to look at: spread evenly, one of each video file, and the suspicious."""
    every = [int(episode) for episode in recording.episodes]
    chosen = {every[i] for i in np.linspace(0, len(every) - 1, EPISODES).astype(int)}
    seen = set()
    for episode, row in recording.episode_rows.items():
        file = tuple(row.get(f"videos/{camera}/{part}") for part in ("chunk_index", "file_index"))
        if file not in seen and None not in file:
            seen.add(file)
            chosen.add(episode)
        brightest, deviation = (row.get(f"stats/{camera}/{name}") for name in ("max", "std"))
        if brightest is None or deviation is None:
            continue
        if np.ravel(brightest).max() < DARK or np.ravel(deviation).max() < FLAT:
            chosen.add(episode)
    return sorted(chosen & set(every))


def _rows(recording: Recording, episode: int) -> np.ndarray:
    """Rows of the dataset that are looked at in an episode."""
    place = int(np.flatnonzero(recording.episodes == episode)[0])
    first, length = recording.starts[place], recording.lengths[place]
    return first + np.unique(np.linspace(0, length - 1, FRAMES).astype(int))


def _stored_frames(
    recording: Recording, wanted: dict[str, list[int]]
) -> Iterator[tuple[str, int, np.ndarray | str]]:
    """Pictures that lie in the parquet files, read by row groups: camera, episode, frames."""
    needed: dict[int, set[str]] = defaultdict(set)
    for camera, episodes in wanted.items():
        for episode in episodes:
            for row in _rows(recording, episode):
                needed[int(row)].add(camera)
    cells = _cells(recording.file_rows, needed)
    for camera, episodes in wanted.items():
        for episode in episodes:
            rows = [int(row) for row in _rows(recording, episode)]
            try:
                pictures = [_picture(cells[row, camera], recording.root) for row in rows]
                yield camera, episode, np.stack(pictures)
            except (OSError, ValueError, KeyError, TypeError) as error:
                yield camera, episode, str(error) or type(error).__name__


def _cells(
    files: list[tuple[Path, int]], needed: dict[int, set[str]]
) -> dict[tuple[int, str], dict[str, Any]]:
    """The stored bytes or paths of the needed rows."""
    cells: dict[tuple[int, str], dict[str, Any]] = {}
    first = 0
    for path, length in files:
        inside = [row for row in needed if first <= row < first + length]
        if inside:
            with pyarrow.parquet.ParquetFile(path) as file:
                start = first
                for group in range(file.num_row_groups):
                    end = start + file.metadata.row_group(group).num_rows
                    rows = [row for row in inside if start <= row < end]
                    names = sorted(set().union(*(needed[row] for row in rows)))
                    there = [name for name in names if name in file.schema_arrow.names]
                    if there:
                        table = file.read_row_group(group, columns=there)
                        taken = table.take([row - start for row in rows]).to_pylist()
                        for row, record in zip(rows, taken, strict=True):
                            cells |= {(row, name): record[name] for name in there}
                    start = end
        first += length
    return cells


def _picture(cell: dict[str, Any], root: Path) -> np.ndarray:
    source = io.BytesIO(cell["bytes"]) if cell.get("bytes") else root / cell["path"]
    with Image.open(source) as picture:
        return np.asarray(picture.convert("RGB"))


def _video_frames(recording: Recording, camera: str, episode: int) -> np.ndarray | str:
    """The frames, found by their timestamps as training finds them; or why there are none."""
    row = recording.episode_rows.get(episode, {})
    try:
        path = recording.root / recording.info["video_path"].format(
            video_key=camera,
            chunk_index=row[f"videos/{camera}/chunk_index"],
            file_index=row[f"videos/{camera}/file_index"],
        )
        begin = row[f"videos/{camera}/from_timestamp"]
    except (KeyError, AttributeError):
        return "meta/ does not say which video file holds it"
    if not path.is_file():
        return f"{path.relative_to(recording.root)} is missing"
    times = [begin + float(t) for t in recording.timestamps[_rows(recording, episode)]]
    backend = get_safe_default_video_backend()
    try:
        frames = decode_video_frames(path, times, TOLERANCE, backend, return_uint8=True)
    except Exception as error:  # each decoder has errors of its own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"{path.relative_to(recording.root)}: {reason[0][:160]}"
    return frames.movedim(1, -1).numpy()
