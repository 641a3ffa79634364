"""How far an episode got: VLABench's intention score and progress score.

Progress as the paper defines it (arXiv 2412.18194, section 5):

    PS = alpha * (things correctly chosen / all to be chosen)
         + (1 - alpha) * (conditions met / all conditions),       alpha = 0.2

The released code computes another number, (conditions met + things touched) / (conditions +
things), which published tables of later dates hold; it is kept beside it. The intention score is
the code's: whether the end effector came within 0.1 m of the thing to be chosen. Three things are
mended: a thing that was touched, or a task that was solved, was intended also where the thing's
origin stayed further away (long ones); tasks whose things lie in others have a score, too; and of
several things each one counts, not the last.

`Task` and `Condition` are VLABench's (`VLABench/tasks`), which is not imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

ALPHA = 0.2
NEAR = 0.1  # metres: the threshold of VLABench's Evaluator


class ScoreKeeper:
    """Follows an episode.

    task: a task of VLABench's. All scores are None before the first step, and where the task does
    not say what is to be chosen or when it is solved.
    """

    def __init__(self, task: Any) -> None:
        self._robot = task.robot
        self._conditions = getattr(task, "conditions", None)
        self._targets = _targets(task, self._conditions)
        self._near = np.zeros(len(self._targets), bool)
        self._touched = np.zeros(len(self._targets), bool)
        self._met: float | None = None
        self._released: float | None = None

    def update(self, physics: Any) -> None:
        """Take in how things are after a step."""
        hand = np.array(self._robot.get_end_effector_pos(physics))
        for index, thing in enumerate(self._targets):
            self._near[index] |= np.linalg.norm(hand - thing.get_xpos(physics)) < NEAR
            if hasattr(thing, "is_grasped"):
                self._touched[index] |= thing.is_grasped(physics, self._robot)
        if self._conditions is not None:
            self._met = met_share(self._conditions, physics)
            self._released = self._by_the_code(physics)

    @property
    def intention(self) -> float | None:
        """The share of things that were intended, in [0, 1]."""
        if self._met is None or not self._targets:
            return None
        return 1.0 if self._met == 1 else float((self._near | self._touched).mean())

    @property
    def progress(self) -> float | None:
        """By the paper, in [0, 1]. Chosen is what the gripper touched, and what is not there to be
        gripped (a button) once the gripper was near; in a solved task everything."""
        if self._met is None or not self._targets:
            return None
        chosen = [
            touched if hasattr(thing, "is_grasped") else near
            for thing, touched, near in zip(self._targets, self._touched, self._near, strict=True)
        ]
        share = 1.0 if self._met == 1 else float(np.mean(chosen))
        return ALPHA * share + (1 - ALPHA) * self._met

    @property
    def released_progress(self) -> float | None:
        """By the released code, in [0, 1]; None for tasks for which it has none."""
        return self._released

    def _by_the_code(self, physics: Any) -> float | None:
        conditions = getattr(self._conditions, "conditions", None)
        if conditions is None or not self._targets:
            return None
        met = [bool(condition.is_met(physics)) for condition in conditions]
        if any(hasattr(condition, "button") for condition in conditions):
            return float(all(met))
        return (sum(met) + int(self._touched.sum())) / (len(met) + len(self._targets))


def met_share(condition: Any, physics: Any) -> float:
    """The share of a condition's parts that are met, in [0, 1].

    A set of conditions is the mean of them, of alternatives the best one counts, and of a sequence
    what was met once stays met."""
    if hasattr(condition, "condition_has_been_met"):
        condition.is_met(physics)  # this is what notes it
        return float(np.mean(condition.condition_has_been_met))
    if hasattr(condition, "condition_sets"):
        return max(met_share(part, physics) for part in condition.condition_sets)
    if hasattr(condition, "conditions"):
        return float(np.mean([met_share(part, physics) for part in condition.conditions]))
    return float(condition.is_met(physics))


def _targets(task: Any, conditions: Any) -> list[Any]:
    """The things to be chosen. Episodes of the tracks name the button in their conditions alone;
    the settings of the task are then still those that were drawn at random."""
    parts = getattr(conditions, "conditions", [])
    buttons = [condition.button for condition in parts if hasattr(condition, "button")]
    if buttons:
        return buttons
    names = _names(getattr(task, "target_entity", None))
    return [task.entities[name] for name in names if name in task.entities]


def _names(named: Any) -> Iterator[str]:
    if isinstance(named, str):
        yield named
    elif isinstance(named, list | tuple):
        for part in named:
            yield from _names(part)
