"""A policy for a server that picks a thing up and puts it onto another, seeing neither."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from e0_vlabench.poses import BASE

ABOVE, GRIP, HIGH, PUT = 0.15, 0.0, 0.25, 0.06  # metres above what is picked or put upon
DOWN = np.array([np.pi, 0.0, -np.pi / 2])
CHUNK = 10


class Picking:
    """Goes to one place, grips, carries what is there to another, and lets go.

    start, thing, goal (3,): where the hand begins and both places, in the world's frame, in metres.
    Notes what it is asked.
    """

    metadata: ClassVar = {
        "protocol": 1,
        "robot": "vlabench",
        "policy": "picking",
        "checkpoint": "scripted",
        "horizon": CHUNK,
        "n_action_steps": CHUNK,
    }

    def __init__(self, start: np.ndarray, thing: np.ndarray, goal: np.ndarray) -> None:
        self._actions = np.array(list(_actions(start, thing, goal)), np.float32)
        self.asked: list[Mapping[str, Any]] = []

    def warm_up(self) -> None:
        pass

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        first = CHUNK * len(self.asked)
        self.asked.append(observation)
        return {"actions": self._actions[first : first + CHUNK]}


def _actions(start: np.ndarray, thing: np.ndarray, goal: np.ndarray) -> Iterator[np.ndarray]:
    """Actions (7,) along straight lines."""
    up = np.array([0, 0, 1.0])
    places = [
        (thing + ABOVE * up, 1, 20),
        (thing + GRIP * up, 1, 10),
        (thing + GRIP * up, 0, 5),
        (thing + HIGH * up, 0, 10),
        (goal + HIGH * up, 0, 20),
        (goal + ABOVE * up, 0, 5),
        (goal + PUT * up, 0, 10),
        (goal + PUT * up, 1, 10),
        (goal + HIGH * up, 1, 20),
    ]
    here = start
    for place, gripper, steps in places:
        for part in np.linspace(0, 1, steps + 1)[1:]:
            yield np.concatenate([here + part * (place - here) - BASE, DOWN, [gripper]])
        here = place
