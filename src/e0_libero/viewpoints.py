"""The viewpoints that LIBERO-Plus gives LIBERO's agent view (Fei et al. 2025, arXiv:2510.13626)."""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass

import numpy as np
from scipy.spatial.transform import Rotation

PIVOT = np.array([0.0, 0.0, 0.8])
"""What cameras are moved about, in metres, in every scene: also where the table is higher, or where
there is none, so that a camera may come to look past the things."""


@dataclass(frozen=True)
class Viewpoint:
    """Where the agent view is moved from its usual place, by the five whole numbers that the names
    of LIBERO-Plus's tasks have.

    Attributes:
        azimuth: degrees about the world's vertical axis, counter-clockwise seen from above; those
            from 181 to 359 are clockwise.
        elevation: degrees upwards about the pivot, before it is turned by the azimuth.
        distance: from the pivot, per cent; the line of sight keeps its direction.
        yaw: degrees that the camera is turned in its place about the vertical, counter-clockwise.
        pitch: degrees that it is then turned in its place about the world's y axis: downwards, for
            a camera that is not moved otherwise.

    Raises:
        ValueError: the distance is not positive.
    """

    azimuth: int = 0
    elevation: int = 0
    distance: int = 100
    yaw: int = 0
    pitch: int = 0

    def __post_init__(self) -> None:
        if self.distance <= 0:
            raise ValueError(f"a viewpoint's distance must be above 0 per cent: {self.distance}")

    @classmethod
    def parse(cls, text: str) -> Viewpoint:
        """The viewpoint that is written as in LIBERO-Plus's names: "285_15_100_0_0".

        Raises:
            ValueError: these are not five whole numbers, or the distance is not positive.
        """
        if not re.fullmatch(r"\d+(_\d+){4}", text):
            raise ValueError(
                "a viewpoint is azimuth_elevation_distance_yaw_pitch in whole degrees, the "
                f"distance in per cent, as in 285_15_100_0_0; got {text!r}"
            )
        return cls(*map(int, text.split("_")))

    def moved(self, eye: np.ndarray, rotation: Rotation) -> tuple[np.ndarray, Rotation]:
        """Where a camera that is usually at `eye` (3,) in metres, its axes turned by `rotation`,
        comes to be. LIBERO-Plus rounds on the way: to 0.1 mm, and quaternions to four decimals."""
        orbit = _about("z", self.azimuth) * _about("y", -self.elevation)
        turn = _about("y", -self.pitch) * _about("z", self.yaw)
        place = PIVOT + self.distance / 100 * orbit.apply(eye - PIVOT)
        return place, turn * orbit * rotation

    @property
    def band(self) -> str:
        """How it is moved and about how far, in words, as in "azimuth 51–75°, elevation 15°"."""
        azimuth, elevation, yaw, pitch = (
            min(angle % 360, -angle % 360)
            for angle in (self.azimuth, self.elevation, self.yaw, self.pitch)
        )
        parts = []
        if azimuth:
            parts.append("azimuth {}–{}°".format(*_band(azimuth, 25)))
        if elevation:
            parts.append(f"elevation {elevation}°")
        if self.distance != 100:
            low, high = _band(self.distance - 100, 50)
            parts.append(f"distance ×{1 + low / 100:.2f}–{1 + high / 100:.2f}")
        if yaw or pitch:
            parts.append("turned in place")
        return ", ".join(parts) or "home"

    def __str__(self) -> str:
        return "_".join(map(str, astuple(self)))


def _about(axis: str, degrees: int) -> Rotation:
    return Rotation.from_euler(axis, degrees, degrees=True)


def _band(size: int, width: int) -> tuple[int, int]:
    """The first and last of the whole numbers from 1 on, `width` of them, that hold `size`."""
    last = -(-size // width) * width
    return last - width + 1, last
