"""Experts: what a task's goal asks for, done with skills, in an order that works.

Nothing here is of a single task: goals are BDDL predicates, and an expert does for each what makes
it true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from e0_experts.waypoints import Follower, Plan
from e0_libero import skills
from e0_libero.scene import Scene
from e0_libero.skills import METRES, OPEN, RADIANS

ATTEMPTS = 5
ORDER = {
    "turnon": 0,
    "turnoff": 0,
    "on": 1,
    "in": 1,
    "open": 2,
    "close": 3,
}  # what was put in is shut in


class Expert:
    """Solves the task of an environment that has been reset; make a new one after every reset.

    Call `act` before every step. task: LIBERO's `ControlEnv`. pace: share of its usual speed. rng:
    draws the order of what may be done in any order. Raises ValueError for a goal that no skill
    reaches.
    """

    def __init__(
        self, task: object, *, pace: float = 1.0, rng: np.random.Generator | None = None
    ) -> None:
        scene = Scene(task)
        for goal in scene.goals:
            if goal[0] not in DOINGS or (goal[0] == "open" and not scene.joint(goal[1]).slides):
                raise ValueError(
                    f"no skill makes {goal} true; known: {', '.join(DOINGS)}, open for drawers"
                )
        order = range(len(scene.goals)) if rng is None else rng.permutation(len(scene.goals))
        self._follower = Follower(
            plan(scene, [scene.goals[place] for place in order]),
            scene.tool,
            metres=METRES,
            radians=RADIANS,
            pace=pace,
        )

    @property
    def delicate(self) -> bool:
        """Whether the action given last must be executed undisturbed."""
        return self._follower.delicate

    def act(self) -> np.ndarray:
        """The next action, float32 (7,) within [-1, 1]."""
        return self._follower.act()


def plan(scene: Scene, goals: Sequence[Sequence[str]]) -> Plan:
    """Make all goals true, in this order as far as `ORDER` leaves it open; begin again where one
    was missed."""
    for _ in range(ATTEMPTS):
        for goal in sorted(goals, key=lambda goal: ORDER[goal[0]]):
            if not scene.fulfilled(goal):
                yield from DOINGS[goal[0]](scene, *goal[1:])
                if not scene.fulfilled(goal):
                    yield skills.move(scene.home, OPEN, 0.03, 40)
                    break  # what comes later may be in its way, as a door that is shut
    yield skills.hold(scene, OPEN, 1)


def _put_on(scene: Scene, name: str, target: str) -> Plan:
    if scene.is_flat(name) and scene.is_region(target):
        yield from skills.push(scene, name, target)
    else:
        yield from _carry(scene, name, lambda: skills.place_on(scene, name, target))


def _put_in(scene: Scene, name: str, region: str) -> Plan:
    cupboard = scene.cupboard(region)
    if cupboard is not None:
        yield from skills.insert(scene, name, region, cupboard)
        return
    if scene.is_drawer(region) and not scene.fulfilled(["open", region]):
        yield from skills.pull(scene, region)
    yield from _carry(scene, name, lambda: skills.place_in(scene, name, region))


def _carry(scene: Scene, name: str, place: Callable[[], tuple[np.ndarray, float]]) -> Plan:
    """Pick something and put it where `place` says, if it was picked."""
    safe = scene.home.position[2] - 0.02
    before = scene.pose(name).position[2]
    yield from skills.pick(scene, name, safe)
    if scene.pose(name).position[2] - before > skills.LIFTED:
        where, drop = place()
        yield from skills.put(scene, name, where, drop, safe)


DOINGS: dict[str, Callable[..., Plan]] = {
    "on": _put_on,
    "in": _put_in,
    "open": skills.pull,
    "close": skills.shut,
    "turnon": partial(skills.turn, state="turnon"),
    "turnoff": partial(skills.turn, state="turnoff"),
}
"""What makes a predicate true, by its name."""
