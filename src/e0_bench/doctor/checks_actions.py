"""Checks of what actions mean: grippers, absolute or delta, which frame, and what tokens lose.

The meaning is read off the data: an absolute command agrees with the state that follows, a delta
with the difference of two states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from e0_bench.doctor.checks_rotations import find_quaternions
from e0_bench.doctor.findings import (
    NOTE,
    WARNING,
    Finding,
    in_episodes,
    left_out,
    listed,
    number,
    share,
)
from e0_bench.doctor.reading import Column

FEW_ROWS = 30  # less tells nothing
CLEAR = 0.6  # a correlation that is no accident
AROUND = np.array([-4, -3, -2, -1, 3, 4, 5, 6])  # steps before and after a switch
LAGS = range(-5, 11)  # steps between a command and the state that answers it


@dataclass(frozen=True, eq=False)
class Match:
    """Which state dimension an action dimension commands, and how. r: the correlation."""

    action: int
    state: int
    kind: str  # absolute or delta
    r: float
    slope: float


def check_gripper(action: Column, state: Column | None) -> list[Finding]:
    """Dimensions whose values gather at two ends: which share opens and closes, and what moves."""
    findings = []
    for d in two_sided(action):
        values = action.values[:, d]
        low, high = np.nanmin(values), np.nanmax(values)
        upper = values > (low + high) / 2
        told = f"{share(1 - upper.mean())} near {number(low)}, the others near {number(high)}"
        follower = _follower(action, upper, state) if state is not None else None
        if follower is None or state is None:
            told += "; no state dimension follows it, so which one opens is not known"
            findings.append(_gripper_note(action, d, told))
            continue
        s, by_episode = follower
        overall = float(np.median([*by_episode.values()]))
        name = f"{state.feature}[{state.dimensions[s]}]"
        direction = "rises" if overall > 0 else "falls"
        closed = "closed" in state.dimensions[s].lower()
        known = "" if closed else "if that is the fingers' width, "
        opens = high if (overall > 0) is not closed else low
        told += f"; {name} {direction} after {number(high)} (r = {overall:+.2f}), so {known}"
        told += f"{number(opens)} opens"
        findings.append(_gripper_note(action, d, told))
        findings += _reversed_gripper(action, d, name, by_episode)
    return findings


def _gripper_note(action: Column, d: int, told: str) -> Finding:
    return Finding(
        NOTE,
        "gripper",
        action.feature,
        told,
        "with another polarity than the robot's the gripper opens where it should close",
        "compare with the robot or simulator that the policy will run on",
        (action.dimensions[d],),
    )


def _reversed_gripper(
    action: Column, d: int, name: str, by_episode: dict[int, float]
) -> list[Finding]:
    """Episodes against the majority; what is not known to be a finger has to be clearer."""
    overall = np.median([*by_episode.values()])
    clear = CLEAR if _is_finger(name) else 0.9
    opposed = tuple(e for e, r in by_episode.items() if r * overall < 0 and abs(r) > clear)
    if not opposed or abs(overall) < clear or len(opposed) > 0.4 * len(by_episode):
        return []
    return [
        Finding(
            WARNING,
            "gripper polarity",
            action.feature,
            f"in {in_episodes(opposed)} {name} answers the other way round than elsewhere",
            "the same command opens in one episode and closes in another",
            "turn these episodes round; " + left_out(opposed, len(action.episodes)),
            (action.dimensions[d],),
            opposed,
        )
    ]


def two_sided(column: Column) -> list[int]:
    """Dimensions with nine tenths of their values near two ends and some near each."""
    found = []
    for d in np.flatnonzero(column.varies):
        values = column.values[:, d]
        values = values[np.isfinite(values)]
        place = (values - values.min()) / np.ptp(values)
        low, high = (place < 0.1).mean(), (place > 0.9).mean()
        if low + high > 0.9 and min(low, high) > 0.02:
            found.append(int(d))
    return found


def _follower(
    action: Column, upper: np.ndarray, state: Column
) -> tuple[int, dict[int, float]] | None:
    """The state dimension that follows an open-or-close command (N,) most clearly, and in each
    episode the correlation of the command with what that dimension does; None if none does."""
    switches = action.inside[upper[action.inside] != upper[action.inside + 1]] + 1
    # Just before a switch, and some steps after it: in between the fingers are on their way.
    around = (switches[:, None] + AROUND).clip(0, len(upper) - 1)
    same = action.episode_of[around] == action.episode_of[switches][:, None]
    held = upper[around] == (upper[switches][:, None] ^ (AROUND < 0))
    rows = np.unique(around[same & held])
    if len(rows) < FEW_ROWS:
        return None
    edges = np.append(np.searchsorted(rows, action.starts), len(rows))
    best, clearest = None, CLEAR
    for s in map(int, np.flatnonzero(state.varies)):
        by_episode = {
            int(episode): _correlation(upper[rows[i:j]], state.values[rows[i:j], s])
            for episode, i, j in zip(action.episodes, edges[:-1], edges[1:], strict=True)
            if j - i >= 6
        }
        score = float(np.median(np.abs([*by_episode.values()]))) if by_episode else 0.0
        if score > CLEAR and score + _is_finger(state.dimensions[s]) > clearest:
            best, clearest = (s, by_episode), score + _is_finger(state.dimensions[s])
    return best


def _is_finger(name: str) -> bool:
    return any(word in name.lower() for word in ("grip", "finger"))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation; 0 where one of both is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 1e-12 else 0.0


def match_state(action: Column, state: Column) -> list[Match]:
    """For each action dimension the state dimension that it commands, where that is clear."""
    rows = action.inside
    if len(rows) < FEW_ROWS:
        return []
    gripper = set(two_sided(action))
    now, following = state.values[rows], state.values[rows + 1]
    matches = []
    comparable = state.varies.copy()
    for first in find_quaternions(state):  # no action is a quaternion's component
        comparable[first : first + 4] = False
    for d in np.flatnonzero(action.varies):
        if d in gripper:
            continue
        command = action.values[rows, d]
        found = [
            _match(int(d), int(s), command, now, following) for s in np.flatnonzero(comparable)
        ]
        # What is absolute also correlates a little with differences, hardly the other way round.
        clear = [match for match in found if abs(match.r) > CLEAR]
        if clear:
            matches.append(max(clear, key=lambda match: abs(match.r)))
    return matches


def _match(d: int, s: int, command: np.ndarray, now: np.ndarray, following: np.ndarray) -> Match:
    """How an action dimension relates to a state dimension. Absolute counts only where the changes
    agree too: two slow drifts correlate by accident."""
    delta = _correlation(command, following[:, s] - now[:, s])
    level = _correlation(command, following[:, s])
    changes = _correlation(np.diff(command), np.diff(following[:, s]))
    slope = np.polyfit(following[:, s], command, 1)[0] if abs(level) > CLEAR else 0.0
    if abs(level) > 0.9 and level * changes > 0 and abs(changes) > 0.3 and abs(level) >= abs(delta):
        return Match(d, s, "absolute", level, float(slope))
    return Match(d, s, "delta", delta, 0.0)


def check_convention(action: Column, state: Column) -> list[Finding]:
    """Whether actions are absolute or deltas, of which state, how late, and in which frame."""
    matches = match_state(action, state)
    findings = []
    for kind in ("absolute", "delta"):
        chosen = [match for match in matches if match.kind == kind]
        if chosen:
            findings.append(_convention_note(action, state, kind, chosen))
    absolute = [match for match in matches if match.kind == "absolute"]
    findings += _late(action, state, absolute) + _reversed(action, state, matches)
    # Deltas of the tool's frame follow no single axis of the state, so that nothing matches.
    return findings if absolute else findings + _frame(action, state)


def _convention_note(action: Column, state: Column, kind: str, chosen: list[Match]) -> Finding:
    pairs = listed([f"{action.dimensions[m.action]}→{state.dimensions[m.state]}" for m in chosen])
    what = "the next state" if kind == "absolute" else "the change of state"
    told = (
        f"looks {kind}: follows {what} ({pairs}; median r = {np.median([m.r for m in chosen]):.2f})"
    )
    slopes = np.array([abs(m.slope) for m in chosen])
    for factor, units in (
        (180 / np.pi, "degrees and radians"),
        (np.pi / 180, "radians and degrees"),
    ):
        if kind == "absolute" and (np.abs(slopes / factor - 1) < 0.05).mean() > 0.5:
            told += f"; actions and state seem to be in {units}"
    opposed = [
        action.dimensions[m.action]
        for m in chosen
        if m.r < 0 and action.dimensions[m.action] == state.dimensions[m.state]
    ]
    if opposed:
        told += f"; {listed(opposed)} against the state's direction: another frame or sign"
    return Finding(
        NOTE,
        "convention",
        action.feature,
        told,
        "the robot must take actions in the same sense",
        "compare with the controller that the policy will drive",
        action.names(np.array([m.action for m in chosen])),
    )


def _late(action: Column, state: Column, absolute: list[Match]) -> list[Finding]:
    """Actions that repeat the present state, or trail behind it."""
    copied, trailing = [], []
    for match in absolute:
        best = _best_lag(action.values[:, match.action], state.values[:, match.state], action)
        if best is None:
            continue
        lag, r = best
        if lag < 0:
            trailing.append((match.action, lag))
        elif lag == 0 and r > 0.99999:
            copied.append(match.action)
    findings = []
    if copied:
        findings.append(
            Finding(
                WARNING,
                "copied state",
                action.feature,
                f"equals {state.feature} of the same step",
                "a policy learns to stay where it is; an action has to say where to go next",
                "record commands, or shift the actions by one step",
                action.names(np.array(copied)),
            )
        )
    if trailing:
        steps = -int(np.median([lag for _, lag in trailing]))
        findings.append(
            Finding(
                WARNING,
                "late actions",
                action.feature,
                f"trails {state.feature} by {steps} step{'' if steps == 1 else 's'}",
                "a command cannot come after what it causes: the clocks differ",
                "shift the actions, or record state and action by one clock",
                action.names(np.array([d for d, _ in trailing])),
            )
        )
    return findings


def _best_lag(command: np.ndarray, state: np.ndarray, column: Column) -> tuple[int, float] | None:
    """The lag whose changes of state agree best with those of the command, and how well."""
    inside = column.inside
    change, answer = np.zeros(len(command)), np.zeros(len(command))
    change[inside] = np.diff(command)[inside]
    answer[inside] = np.diff(state)[inside]
    scores = {}
    for lag in LAGS:
        rows = inside[(inside + lag >= 0) & (inside + lag < len(command))]
        rows = rows[column.episode_of[rows] == column.episode_of[rows + lag]]
        if len(rows) >= FEW_ROWS:
            scores[lag] = _correlation(change[rows], answer[rows + lag])
    if not scores or max(scores.values()) < CLEAR:
        return None
    lag = max(scores, key=lambda key: scores[key])
    # Neighbouring lags of a slow motion hardly differ: only a clear winner counts against it.
    if lag < 0 and scores[lag] - max(scores.get(k, -1.0) for k in scores if k >= 0) < 0.02:
        return None
    return lag, scores[lag]


def _reversed(action: Column, state: Column, matches: list[Match]) -> list[Finding]:
    """Episodes in which a dimension acts the other way round than in most."""
    findings = []
    for match in matches:
        command, now = action.values[:, match.action], state.values[:, match.state]
        opposed = []
        edges = np.append(action.starts, len(now))
        for episode, i, j in zip(action.episodes, edges[:-1], edges[1:], strict=True):
            if j - i < 8:
                continue
            answer = now[i + 1 : j] - (now[i : j - 1] if match.kind == "delta" else 0.0)
            r = _correlation(command[i : j - 1], answer)
            if r * match.r < 0 and abs(r) > CLEAR:
                opposed.append(int(episode))
        if opposed and len(opposed) < 0.5 * len(action.episodes):
            findings.append(
                Finding(
                    WARNING,
                    "reversed",
                    action.feature,
                    f"in {in_episodes(opposed)} it moves {state.feature}"
                    f"[{state.dimensions[match.state]}] the other way round than elsewhere",
                    "contradicting demonstrations cancel each other",
                    "turn these episodes round; " + left_out(opposed, len(action.episodes)),
                    (action.dimensions[match.action],),
                    tuple(opposed),
                )
            )
    return findings


def _frame(action: Column, state: Column) -> list[Finding]:
    """Whether delta translations, the first three dimensions, are of the base's or tool's frame."""
    rows = action.inside
    if len(action.dimensions) < 3 or len(rows) < FEW_ROWS:
        return []
    for first in find_quaternions(state):
        if first < 3:
            continue
        moved = state.values[rows + 1, first - 3 : first] - state.values[rows, first - 3 : first]
        quaternions = state.values[rows, first : first + 4]
        frames = {"the base's": moved}
        for order, chosen in (("xyzw", [0, 1, 2, 3]), ("wxyz", [1, 2, 3, 0])):
            turned = Rotation.from_quat(quaternions[:, chosen]).inv().apply(moved)
            frames[f"the tool's (if the state's quaternion is {order})"] = turned
        scores = {
            name: np.mean([_correlation(action.values[rows, d], axis[:, d]) for d in range(3)])
            for name, axis in frames.items()
        }
        best, second = sorted(scores, key=lambda name: -scores[name])[:2]
        if scores[best] > CLEAR and scores[best] - scores[second] > 0.15:
            return [
                Finding(
                    NOTE,
                    "frame",
                    action.feature,
                    f"translations look to be in {best} frame (mean r = {scores[best]:.2f}, "
                    f"next {scores[second]:.2f})",
                    "the same numbers mean another motion in another frame",
                    "compare with the controller that the policy will drive",
                    action.dimensions[:3],
                )
            ]
    return []
