"""Checks of time and of episodes as wholes: metadata, timestamps, lengths, stretches of rest."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from e0_bench.doctor.checks_values import check_finite
from e0_bench.doctor.findings import (
    ERROR,
    NOTE,
    WARNING,
    Finding,
    counted,
    in_episodes,
    left_out,
    number,
    share,
)
from e0_bench.doctor.reading import Column, Recording

TOLERANCE = 1e-4  # seconds; LeRobot's default when it looks for a frame
STILL = 2e-3  # of a dimension's range, from one step to the next
IDLE_SECONDS = 1.0
IDLE_SHARE = 0.1  # of all frames: a warning


def check_metadata(recording: Recording) -> list[Finding]:
    """Whether meta/ and data/ tell of the same episodes and frames."""
    told = []
    lengths = dict(zip(map(int, recording.episodes), map(int, recording.lengths), strict=True))
    rows = recording.episode_rows
    if len(lengths) != len(recording.episodes):
        told.append("episodes are not contiguous in data/")
    if sorted(lengths) != list(range(len(lengths))):
        told.append("episode indices are not 0, 1, 2, ...")
    if not rows:
        told.append("meta/episodes is missing")
    elif set(rows) != set(lengths):
        told.append(f"meta/episodes lists {len(rows)} episodes, data/ holds {len(lengths)}")
    wrong = tuple(e for e in sorted(rows.keys() & lengths) if rows[e]["length"] != lengths[e])
    if wrong:
        told.append(
            f"{in_episodes(wrong)}: meta/episodes says {rows[wrong[0]]['length']} frames, data/ "
            f"holds {lengths[wrong[0]]}"
        )
    for key, held in (("total_episodes", len(lengths)), ("total_frames", recording.frames)):
        if recording.info.get(key, held) != held:
            told.append(f"meta/info.json says {key} = {recording.info[key]}, data/ holds {held}")
    why = "LeRobot trusts the metadata: it fails, or cuts episodes at the wrong frames"
    remedy = "the recording was cut short or edited by hand: record or convert it again"
    return [Finding(ERROR, "metadata", "episodes", text, why, remedy) for text in told]


def check_timestamps(
    timestamps: np.ndarray, starts: np.ndarray, episodes: np.ndarray, fps: float, videos: bool
) -> list[Finding]:
    """Timestamps (N,) in seconds against the frame rate."""
    column = Column("timestamps", ("seconds",), timestamps[:, None], starts, episodes)
    findings = check_finite(column)
    rows = column.inside
    steps = timestamps[rows + 1] - timestamps[rows]
    if findings or not len(steps):
        return findings
    backwards = steps <= 0
    if backwards.any():
        affected = column.affected(_mask(column, rows[backwards]))
        findings.append(
            Finding(
                ERROR,
                "timestamps",
                "timestamps",
                f"stand still or go backwards in {in_episodes(affected)}",
                "frames and actions are then paired in the wrong order",
                left_out(affected, len(episodes)),
                (),
                affected,
            )
        )
    rate = 1 / np.median(steps) if np.median(steps) > 0 else 0.0
    # Timestamps are kept as float32, which is coarse after hours.
    allowed = TOLERANCE + 4 * np.finfo(np.float32).eps * np.abs(timestamps[rows + 1])
    uneven = np.abs(steps - 1 / fps) > allowed
    consequence = (
        "LeRobot finds video frames by them and stops where it finds none"
        if videos
        else "a chunk takes equal steps: at another pace the motion is another one"
    )
    if abs(rate / fps - 1) > 0.02:
        findings.append(
            Finding(
                ERROR if videos else WARNING,
                "timestamps",
                "timestamps",
                f"steps of {number(1000 / rate) if rate else 0} ms are {number(rate)} fps; "
                f"meta/info.json says {number(fps)}",
                consequence,
                "correct fps in meta/info.json, or convert the recording again",
            )
        )
    elif uneven.any():
        affected = column.affected(_mask(column, rows[uneven]))
        gaps = int((steps > 1.5 / fps).sum())
        findings.append(
            Finding(
                ERROR if videos else WARNING,
                "timestamps",
                "timestamps",
                f"{share(uneven.mean())} of steps are not 1/fps = {number(1000 / fps)} ms (up to "
                f"{number(1000 * steps.max())} ms, {counted(gaps, 'gap')}) in "
                f"{in_episodes(affected)}",
                consequence,
                "resample to even steps, or for small jitter --tolerance_s="
                f"{number(1.1 * np.abs(steps - 1 / fps).max())}",
                (),
                affected,
            )
        )
    return findings


def _mask(column: Column, rows: np.ndarray) -> np.ndarray:
    mask = np.zeros(len(column.values), bool)
    mask[rows] = True
    return mask


def check_lengths(lengths: np.ndarray, episodes: np.ndarray, horizon: int) -> list[Finding]:
    """Episodes shorter than a chunk."""
    short = tuple(int(e) for e in episodes[lengths < horizon])
    if not short:
        return []
    every = len(short) == len(episodes)
    return [
        Finding(
            WARNING,
            "short episodes",
            "episodes",
            f"{'all' if every else in_episodes(short)} ({share(len(short) / len(episodes))}) "
            f"shorter than a chunk of {horizon} steps",
            "the rest of a chunk is padding, which is not learned from",
            f"--policy.horizon={max(int(lengths.min()), 1)}"
            + ("" if every else ", or " + left_out(short, len(episodes))),
            (),
            short,
        )
    ]


def check_chunk(lengths: np.ndarray, fps: float, horizon: int) -> list[Finding]:
    """A chunk that lasts much less than a second."""
    seconds = horizon / fps
    if seconds >= 0.3:
        return []
    wanted = int(max(min(round(fps), lengths.min()), 1))
    return [
        Finding(
            WARNING,
            "chunk",
            "action",
            f"a chunk of {horizon} steps is {number(seconds)} s at {number(fps)} fps",
            "a plan that short stutters, and hesitates where there are several ways to act",
            f"--policy.horizon={wanted} --policy.n_action_steps={max(wanted // 2, 1)}",
        )
    ]


def idle_frames(columns: Iterable[Column]) -> np.ndarray:
    """Frames (N,) bool from which nothing in any column changes to the next one."""
    still: np.ndarray | None = None
    for column in columns:
        reach = np.ptp(column.values, axis=0)
        rows = column.inside
        quiet = np.zeros(len(column.values), bool)
        steps = np.abs(column.values[rows + 1] - column.values[rows])
        quiet[rows] = (steps <= STILL * reach).all(1)
        still = quiet if still is None else still & quiet
    assert still is not None, "there is always an action"
    return still


def check_idle(columns: list[Column], fps: float) -> list[Finding]:
    """Stretches of a second or more in which neither actions nor state change."""
    action = columns[0]
    still = idle_frames(columns)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], still, [0]]).astype(int)))
    first, after = edges[::2], edges[1::2]
    long = after - first >= max(IDLE_SECONDS * fps, 5)
    if not long.any():
        return []
    first, after = first[long], after[long]
    idle = int((after - first).sum())
    part = idle / len(still)
    affected = tuple(int(e) for e in np.unique(action.episode_of[first]))
    longest = int((after - first).argmax())
    at_start = int(np.isin(first, action.starts).sum())
    return [
        Finding(
            WARNING if part > IDLE_SHARE else NOTE,
            "idle",
            "episodes",
            f"nothing moves for a second or more in {in_episodes(affected)}: {share(part)} of all "
            f"frames, {at_start} of {counted(len(first), 'stretch')[:-1]}es at the start, the "
            f"longest {number((after - first)[longest] / fps)} s in episode "
            f"{action.episode_of[first[longest]]}"
            if len(first) > 1
            else f"nothing moves for {number(idle / fps)} s in {in_episodes(affected)}",
            "a policy that learns to wait may never begin to move",
            "cut them off when recording or converting",
            (),
            affected,
        )
    ]
