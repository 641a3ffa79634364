"""Checks of rotations among the dimensions: quaternions that change sign, angles that wrap."""

from __future__ import annotations

import numpy as np

from e0_bench.doctor.findings import WARNING, Finding, counted, in_episodes
from e0_bench.doctor.reading import Column

TURNS = ((2 * np.pi, "2π"), (360.0, "360°"))


def find_quaternions(column: Column) -> list[int]:
    """First dimensions of four that together have unit norm in (nearly) every frame and are no
    one-hot codes; they do not overlap."""
    found: list[int] = []
    for first in range(len(column.dimensions) - 3):
        if found and first < found[-1] + 4:
            continue
        four = column.values[:, first : first + 4]
        unit = np.abs(np.linalg.norm(four, axis=1) - 1) < 1e-2
        fractions = (np.abs(four) > 1e-3) & (np.abs(four) < 0.999)
        if unit.mean() > 0.99 and fractions.any(1).mean() > 0.5:
            found.append(first)
    return found


def check_quaternions(column: Column) -> list[Finding]:
    """Quaternions that change sign from one step to the next, or from one episode to another."""
    findings = []
    for first in find_quaternions(column):
        four = column.values[:, first : first + 4]
        names = column.dimensions[first : first + 4]
        rows = column.inside
        flips = np.zeros(len(four), bool)
        flips[rows] = (four[rows] * four[rows + 1]).sum(1) < 0
        if flips.any():
            episodes = column.affected(flips)
            findings.append(
                _quaternion_finding(
                    column,
                    f"the quaternion changes sign {counted(int(flips.sum()), 'time')} within "
                    f"{in_episodes(episodes)}",
                    names,
                    episodes,
                )
            )
            continue
        starts = four[column.starts]
        agree = starts @ starts[np.abs(starts @ starts.T).sum(1).argmax()]
        odd = np.minimum((agree < -0.5).sum(), (agree > 0.5).sum())
        if odd and (np.abs(agree) > 0.5).mean() > 0.8:
            minority = agree < -0.5 if (agree < -0.5).sum() == odd else agree > 0.5
            episodes = tuple(int(e) for e in column.episodes[minority])
            told = f"the quaternion has the other sign in {in_episodes(episodes)} than elsewhere"
            findings.append(_quaternion_finding(column, told, names, episodes))
    return findings


def _quaternion_finding(
    column: Column, told: str, names: tuple[str, ...], episodes: tuple[int, ...]
) -> Finding:
    return Finding(
        WARNING,
        "quaternion sign",
        column.feature,
        told,
        "q and -q are one rotation, but far apart as numbers: the policy sees a jump",
        "give every quaternion the sign nearest to the one before it (the first: to a fixed one), "
        "here and when the policy acts",
        names,
        episodes,
    )


def check_angles(column: Column) -> list[Finding]:
    """Angles that jump by a whole turn within an episode."""
    rows = column.inside
    if not len(rows):
        return []
    steps = np.abs(column.values[rows + 1] - column.values[rows])
    findings = []
    for turn, told in TURNS:
        low, high = np.nanmin(column.values, axis=0), np.nanmax(column.values, axis=0)
        within = (high - low <= 1.001 * turn) & (high - low > 0.9 * turn)
        # A wrap is a step of nearly a turn among small ones, between values near both ends.
        jumps = (np.abs(steps - turn) < 0.1 * turn) & within
        small = np.nanquantile(steps, 0.9, axis=0) < 0.1 * turn
        wraps = jumps.any(0) & small
        if not wraps.any():
            continue
        mask = np.zeros(len(column.values), bool)
        mask[rows] = (jumps & wraps).any(1)
        episodes = column.affected(mask)
        findings.append(
            Finding(
                WARNING,
                "angle wraps",
                column.feature,
                f"jumps by {told} {counted(int(mask.sum()), 'time')} in {in_episodes(episodes)}"
                + _euler_order(column, wraps, turn),
                "two numbers that are far apart mean one angle: the policy sees, or learns, a jump",
                "unwrap the angle (add whole turns so that it never jumps), choose another zero, "
                "or store its sine and cosine",
                column.names(wraps),
                episodes,
            )
        )
    return findings


def _euler_order(column: Column, wraps: np.ndarray, turn: float) -> str:
    """A hint at the order of Euler angles: the middle one never leaves a quarter turn."""
    reach = np.nanmax(np.abs(column.values), axis=0)
    for d in np.flatnonzero(wraps):
        for first in range(max(d - 2, 0), min(d, len(reach) - 3) + 1):
            outer, middle = wraps[[first, first + 2]], reach[first + 1]
            if outer.all() and middle <= 0.251 * turn:
                names = ", ".join(column.dimensions[first : first + 3])
                return f"; {names} look like Euler angles in this order (the middle one is small)"
    return ""
