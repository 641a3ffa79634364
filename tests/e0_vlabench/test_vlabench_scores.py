"""VLABench's scores, by conditions and places that are set by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from e0_vlabench.scores import ScoreKeeper, met_share


class Is:
    """A condition that is met when its value says so; `button` if it is about one."""

    def __init__(self, value: bool, **attributes: Any) -> None:
        self.value = value
        self.__dict__.update(attributes)

    def is_met(self, physics: Any) -> bool:
        return self.value


class Thing:
    """At a place, touched or not."""

    def __init__(self, x: float, touched: bool = False) -> None:
        self.x, self.touched = x, touched

    def get_xpos(self, physics: Any) -> np.ndarray:
        return np.array([self.x, 0, 0])

    def is_grasped(self, physics: Any, robot: Any) -> bool:
        return self.touched


def all_of(*parts: Any) -> Any:
    return SimpleNamespace(conditions=list(parts))


def task(conditions: Any, target: Any, **entities: Thing) -> Any:
    robot = SimpleNamespace(get_end_effector_pos=lambda physics: np.zeros(3))
    return SimpleNamespace(
        robot=robot, conditions=conditions, target_entity=target, entities=entities
    )


def test_what_was_near_or_touched_once_counts_to_the_end() -> None:
    cup = Thing(0.5)
    keeper = ScoreKeeper(task(all_of(Is(False)), "cup", cup=cup, other=Thing(0)))
    assert keeper.intention is keeper.progress is keeper.released_progress is None
    keeper.update(None)
    assert (keeper.intention, keeper.progress, keeper.released_progress) == (0, 0, 0)
    cup.x = 0.09
    keeper.update(None)
    assert (keeper.intention, keeper.progress) == (1, 0)
    cup.x, cup.touched = 0.5, True
    keeper.update(None)
    cup.touched = False
    keeper.update(None)
    assert keeper.intention == 1 and keeper.released_progress == 0.5
    assert keeper.progress == pytest.approx(0.2)


def test_a_long_thing_that_was_touched_far_from_its_origin_was_intended() -> None:
    keeper = ScoreKeeper(task(all_of(Is(False)), ["tube"], tube=Thing(0.3, touched=True)))
    keeper.update(None)
    assert keeper.intention == 1


def test_a_solved_task_has_full_scores_also_untouched() -> None:
    keeper = ScoreKeeper(task(all_of(Is(True), Is(True)), "cup", cup=Thing(1)))
    keeper.update(None)
    assert (keeper.intention, keeper.progress) == (1, 1)
    assert keeper.released_progress == pytest.approx(2 / 3)


def test_several_things_and_conditions_count_by_their_shares() -> None:
    conditions = all_of(Is(True), Is(False), Is(False), Is(False))
    things = {"a": Thing(1, touched=True), "b": Thing(1)}
    keeper = ScoreKeeper(task(conditions, [["a"], ["b"]], **things))
    keeper.update(None)
    assert keeper.progress == pytest.approx(0.2 * 0.5 + 0.8 * 0.25)
    assert keeper.intention == 0.5
    assert keeper.released_progress == pytest.approx(2 / 6)


def test_a_button_is_that_of_the_conditions_and_chosen_when_the_gripper_is_near() -> None:
    button = SimpleNamespace(get_xpos=lambda physics: np.array([0.05, 0, 0]))
    keeper = ScoreKeeper(task(all_of(Is(False, button=button)), "Ukiyo-e", other=Thing(0)))
    keeper.update(None)
    assert keeper.intention == 1 and keeper.progress == pytest.approx(0.2)
    assert keeper.released_progress == 0


def test_tasks_that_do_not_say_what_to_choose_have_no_scores() -> None:
    for unknown in (task(all_of(Is(True)), "cup"), task(None, "cup", cup=Thing(0))):
        keeper = ScoreKeeper(unknown)
        keeper.update(None)
        assert keeper.intention is keeper.progress is None


def test_alternatives_count_by_the_best_and_sequences_by_what_was_ever_met() -> None:
    either = SimpleNamespace(condition_sets=[all_of(Is(False), Is(True)), all_of(Is(False))])
    assert met_share(either, None) == 0.5
    assert met_share(all_of(either, Is(True)), None) == 0.75
    sequence = SimpleNamespace(
        condition_has_been_met=[True, False, False, False], is_met=lambda physics: False
    )
    assert met_share(all_of(sequence), None) == 0.25
