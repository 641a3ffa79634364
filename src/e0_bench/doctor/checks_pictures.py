"""Checks of sampled pictures: black, flat, frozen, undecodable, turned round against the others."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from PIL import Image

from e0_bench.doctor.findings import ERROR, NOTE, WARNING, Finding, in_episodes, left_out, share
from e0_bench.doctor.pictures import Sample

BLACK, FLAT = 12.0, 2.0  # of 255: nearly the brightest pixel; deviation
SIDE = 64  # pictures are compared at this size
CHANGED = 8.0  # of 255: a pixel that differs by more has changed
FROZEN = 5e-4  # of the pixels: fewer changed ones are none
TURNS = {
    "upside down (turned by 180°)": lambda picture: picture[::-1, ::-1],
    "mirrored top to bottom": lambda picture: picture[::-1],
    "mirrored left to right": lambda picture: picture[:, ::-1],
}


def check_decoding(sample: Sample, total: int) -> list[Finding]:
    """Episodes whose pictures could not be read."""
    if not sample.failures:
        return []
    episodes = tuple(sorted(sample.failures))
    first = sample.failures[episodes[0]]
    return [
        Finding(
            ERROR,
            "undecodable",
            sample.camera,
            f"cannot be decoded in {in_episodes(episodes)}: {first}",
            "training fails when it comes to these frames",
            left_out(episodes, total),
            (),
            episodes,
        )
    ]


def check_black(sample: Sample, total: int) -> list[Finding]:
    """Episodes whose pictures are black, or of one colour."""
    black, flat = [], []
    for episode, frames in sample.frames.items():
        if np.quantile(frames, 0.99) <= BLACK:
            black.append(episode)
        elif max(frame.std(axis=(0, 1)).max() for frame in frames) < FLAT:
            flat.append(episode)
    findings = []
    for episodes, told in ((black, "black"), (flat, "of one colour")):
        if not episodes:
            continue
        every = len(episodes) == len(sample.frames)
        findings.append(
            Finding(
                ERROR if every else WARNING,
                "black pictures",
                sample.camera,
                f"{told} in {'all sampled episodes' if every else in_episodes(episodes)}",
                "there is nothing to see: the policy learns to act without looking",
                "check camera and conversion" + ("" if every else "; " + left_out(episodes, total)),
                (),
                tuple(episodes),
            )
        )
    return findings


def check_frozen(sample: Sample, moving: set[int], total: int) -> list[Finding]:
    """Episodes whose sampled pictures are all the same although the robot moves."""
    frozen = tuple(
        episode
        for episode, frames in sample.frames.items()
        if episode in moving and len(frames) >= 3 and _still(frames) and not _blank(frames)
    )
    if not frozen:
        return []
    every = len(frozen) == len(sample.frames.keys() & moving)
    return [
        Finding(
            WARNING,
            "frozen pictures",
            sample.camera,
            f"the same picture from start to end in "
            f"{'all sampled episodes' if every else in_episodes(frozen)}, while the robot moves",
            "what is seen has nothing to do with what is done",
            "check the camera's stream" + ("" if every else "; " + left_out(frozen, total)),
            (),
            frozen,
        )
    ]


def _blank(frames: np.ndarray) -> bool:
    return frames.std() < FLAT


def _still(frames: np.ndarray) -> bool:
    small = np.stack([_small(frame, SIDE) for frame in frames])
    return bool(((np.abs(small[1:] - small[0]) > CHANGED).any(-1).mean((1, 2)) < FROZEN).all())


def _small(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture as float (side, side, 3), or smaller where it is smaller."""
    size = (min(side, picture.shape[1]), min(side, picture.shape[0]))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX), float)


def check_turned(sample: Sample, total: int) -> list[Finding]:
    """Episodes whose pictures resemble the others' only when turned round."""
    views = {e: _view(frames) for e, frames in sample.frames.items() if not _blank(frames)}
    if len(views) < 3:
        return []
    stacked = np.stack(list(views.values()))
    alike = np.array([[_likeness(a, b) for b in stacked] for a in stacked])
    # The one that most of the others resemble stands for them.
    usual = stacked[np.sort(alike, axis=1)[:, -(len(views) // 2) :].sum(1).argmax()]
    findings = []
    for told, turn in TURNS.items():
        turned = tuple(e for e, view in views.items() if _turned(turn, view, usual))
        if turned:
            findings.append(
                Finding(
                    WARNING,
                    "turned pictures",
                    sample.camera,
                    f"{in_episodes(turned)} ({share(len(turned) / len(views))} of those sampled) "
                    f"look {told}, compared with the others",
                    "the policy meets two cameras under one name",
                    "look at them (--html); turn them round or " + left_out(turned, total),
                    (),
                    turned,
                )
            )
            break  # a symmetric scene fits several turns: the first is the commonest
    return findings


def check_cameras_agree(samples: list[Sample]) -> list[Finding]:
    """Two cameras with one view, of which one is upside down."""
    views = {
        sample.camera: np.mean([_view(frames) for frames in sample.frames.values()], axis=0)
        for sample in samples
        if sample.frames
    }
    told, turn = next(iter(TURNS.items()))
    return [
        Finding(
            NOTE,
            "turned cameras",
            f"{first}, {second}",
            f"perhaps one of them is {told}",
            "weights pretrained on upright pictures see an upside-down one badly",
            "look at them (--html)",
        )
        for first, second in combinations(views, 2)
        if _turned(turn, views[first], views[second])
    ]


def _view(frames: np.ndarray) -> np.ndarray:
    """An episode's mean picture, grey, (24, 24)."""
    grey = frames.mean(0).mean(-1).clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(grey).resize((24, 24), Image.Resampling.BOX), float)


def _likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two pictures; 0 for one without contrast."""
    a, b = a - a.mean(), b - b.mean()
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / norm) if norm > 1e-6 else 0.0


def _turned(turn, view: np.ndarray, usual: np.ndarray) -> bool:
    """Whether a view resembles another one strongly when turned, and hardly as it is."""
    as_is, turned = _likeness(view, usual), _likeness(turn(view), usual)
    return turned > 0.75 and turned - as_is > 0.4
