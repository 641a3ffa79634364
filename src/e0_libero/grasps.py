"""Where to grasp an object from above, by a map of heights.

Tried are many places, angles and depths. A grasp is possible where the fingers go down beside the
object without meeting anything, and something of it is between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from e0_libero.scene import Scene

FINGER_WIDTH = 0.022  # across the way of the fingers
FINGER_THICKNESS = 0.024  # along it, with what a finger may be beside its place
OPENING = 0.092  # between the middles of open fingers
WIDEST = 0.068  # between the fingers
REACH = 0.11  # half of the side of the map
CANDIDATES = 120
YAWS = tuple(np.deg2rad(np.arange(-90, 90, 15)))
DEEPEST, DEPTHS = 0.035, (0.022, 0.014)  # from the top of the object to the finger tips
CLEARANCE = 0.008  # of the finger tips above what the object stands on


@dataclass(frozen=True)
class Grasp:
    """position (3,): of the finger tips. yaw: fingers close along yaw + 90 degrees. cost: how bad
    it looks."""

    position: np.ndarray
    yaw: float
    cost: float


def find_grasp(scene: Scene, name: str, yaws: Sequence[float] = YAWS) -> Grasp | None:
    """The best grasp of an object as it lies now, at one of these yaws; None where there is none.
    Yaws near 0 are preferred, which is how the hand begins."""
    origin = scene.pose(name).position
    own = scene.geoms(name)
    low, high = scene.extent(own)
    coordinates, heights, seen = scene.height_map(origin, REACH, high[2] + 0.15)
    of_object = np.isin(seen, own)
    if not of_object.any():
        return None
    top = float(heights[of_object].max())
    centre = (scene.mass_centre(name) - origin)[:2]
    x, y = np.meshgrid(coordinates, coordinates, indexing="ij")
    best: Grasp | None = None
    for depth in (min(DEEPEST, 0.75 * (top - low[2])), *DEPTHS):
        tips = max(top - depth, low[2] + CLEARANCE)
        solid = of_object & (heights > tips + 0.004)
        blocked = heights > tips - 0.004
        for yaw in yaws:
            along = x * -np.sin(yaw) + y * np.cos(yaw)  # the way of the fingers
            across = x * np.cos(yaw) + y * np.sin(yaw)
            for place in _places(solid, along, across):
                found = _score(place, solid, blocked, along, across)
                if found is None:
                    continue
                offset, area = found
                point = place[0] * np.array([-np.sin(yaw), np.cos(yaw)])
                point = point + place[1] * np.array([np.cos(yaw), np.sin(yaw)])
                turn = abs((yaw + np.pi / 2) % np.pi - np.pi / 2)
                cost = (
                    offset / 0.01
                    + 0.6 * float(np.linalg.norm(point - centre)) / 0.03
                    + 0.5 * turn / np.pi
                    - 1.2 * (top - tips) / DEEPEST
                    - 0.4 * min(area, 20) / 20
                )
                if best is None or cost < best.cost:
                    position = np.array([origin[0] + point[0], origin[1] + point[1], tips])
                    best = Grasp(position, float(yaw), float(cost))
        if best is not None and best.cost < 0.8:
            break
    return best


def _places(solid: np.ndarray, along: np.ndarray, across: np.ndarray) -> list[tuple[float, float]]:
    """Where the middle between the fingers may be, (along, across): on the object, and in the
    middle of what of it is between the fingers there."""
    cells = np.argwhere(solid)
    chosen = cells[np.random.default_rng(0).permutation(len(cells))[:CANDIDATES]]
    places = []
    for i, j in chosen:
        a, c = float(along[i, j]), float(across[i, j])
        places.append((a, c))
        run = along[solid & (np.abs(across - c) < FINGER_WIDTH / 2) & (np.abs(along - a) < 0.04)]
        if len(run):
            places.append(((float(run.min()) + float(run.max())) / 2, c))
    return places


def _score(
    place: tuple[float, float],
    solid: np.ndarray,
    blocked: np.ndarray,
    along: np.ndarray,
    across: np.ndarray,
) -> tuple[float, int] | None:
    """How far what is grasped is from the middle between the fingers, and of how many cells it is;
    None where the fingers meet something, or next to nothing is between them."""
    band = np.abs(across - place[1]) < FINGER_WIDTH / 2
    away = np.abs(along - place[0])
    fingers = band & (np.abs(away - OPENING / 2) < FINGER_THICKNESS / 2)
    inside = band & solid & (away < WIDEST / 2)
    if (fingers & blocked).any() or inside.sum() < 4:
        return None
    run = along[inside]
    return abs((float(run.min()) + float(run.max())) / 2 - place[0]), int(inside.sum())
