"""Which episodes are asked for: VLABench's tasks and tracks by name.

A track (`track_1_in_distribution`) is all tasks that it has, `track_1_in_distribution/select_fruit`
one of them: its episode k is set up as the track's file says under k. A task's name alone,
`select_fruit`, has episodes that VLABench draws at random, by the seed k.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from e0_vlabench.errors import UnknownTaskError

Track = Mapping[str, Sequence[Mapping[str, Any]]]
"""How a track sets up its episodes: for each task a list, as VLABench's files have them."""


@dataclass(frozen=True)
class Episode:
    """name: as it is asked for and logged. task: VLABench's. setup: a track's, or None for one that
    is drawn at random."""

    name: str
    task: str
    seed: int
    setup: Mapping[str, Any] | None = field(default=None, hash=False, compare=False)


def track_files(root: Path) -> dict[str, Path]:
    """The tracks that a VLABench package directory has."""
    return {file.stem: file for file in sorted((root / "configs/evaluation/tracks").glob("*.json"))}


def asked_episodes(
    names: Sequence[str],
    files: Mapping[str, Path],
    tasks: Collection[str],
    first: int,
    count: int,
) -> dict[str, list[Episode]]:
    """The episodes of each asked name: `count` of each task from seed `first`; of a task that has
    fewer in its track, all from there.

    tasks: the names that VLABench knows. Raises UnknownTaskError, with the closest names, for one
    that is none of all these, a name that is asked for twice, and a seed beyond a track's episodes.
    """
    tracks: dict[str, Track] = {}
    episodes: dict[str, list[Episode]] = {}
    for name in names:
        track, _, task = name.partition("/")
        if track in files:
            if track not in tracks:
                tracks[track] = json.loads(files[track].read_text())
            chosen = [task] if task else list(tracks[track])
            _require_known(chosen, tracks[track], f"task of {track}")
            episodes[name] = [
                episode
                for one in chosen
                for episode in _of_track(track, one, tracks[track][one], first, count)
            ]
        else:
            known = list(tasks) if not task else [f"{file}/{task}" for file in files]
            _require_known([name], known + list(files), "task or track of VLABench")
            seeds = range(first, first + count)
            episodes[name] = [Episode(name, name, seed) for seed in seeds]
    _require_once([e for some in episodes.values() for e in some], names)
    return episodes


def _of_track(
    track: str, task: str, setups: Sequence[Mapping[str, Any]], first: int, count: int
) -> list[Episode]:
    if first >= len(setups):
        raise UnknownTaskError(
            f"{track}/{task} has the episodes 0 to {len(setups) - 1}, and the first one asked for "
            f"is {first}: take a smaller --seed"
        )
    last = min(first + count, len(setups))
    return [Episode(f"{track}/{task}", task, k, setups[k]) for k in range(first, last)]


def _require_known(names: Iterable[str], known: Collection[str], what: str) -> None:
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"closest: {', '.join(close)}" if close else f"known: {', '.join(sorted(known))}"
            raise UnknownTaskError(f"{name!r} is no {what}; {hint}")


def _require_once(episodes: Sequence[Episode], names: Sequence[str]) -> None:
    if len(set(names)) != len(names) or len(set(episodes)) != len(episodes):
        raise UnknownTaskError(
            f"--tasks names a task twice ({' '.join(names)}); a track holds all of its tasks"
        )
