"""How far an episode gets on its way to success, so that one can see where a policy fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

type Stage = Callable[[Any, Mapping[str, torch.Tensor]], torch.Tensor]
"""Whether it is reached (1,), by the simulator and what its `evaluate` gives."""


def _holds(name: str) -> Stage:
    """The gripper holds the object of this name, of which the task tells nothing."""
    return lambda simulator, info: simulator.agent.is_grasping(getattr(simulator, name))


def _above(upper: str, lower: str) -> Stage:
    """An object's centre is higher than another's and within 2 cm of it, seen from above."""

    def above(simulator: Any, info: Mapping[str, torch.Tensor]) -> torch.Tensor:
        offset = getattr(simulator, upper).pose.p - getattr(simulator, lower).pose.p
        return (offset[:, :2].norm(dim=1) <= 0.02) & (offset[:, 2] > 0)

    return above


def _told(name: str) -> Stage:
    """ManiSkill, or the task of ours, tells it by this name."""
    return lambda simulator, info: info[name]


def _peg_at_hole(off: float, depth: float) -> Stage:
    """The peg's head is at most `off` from the hole's axis to either side, and at least `depth`
    behind the hole's mouth; m."""

    def at_hole(simulator: Any, info: Mapping[str, torch.Tensor]) -> torch.Tensor:
        head = info["peg_head_pos_at_hole"]  # (1, 3), from the box's middle, x into the hole
        mouth = -simulator.peg_half_sizes[:, 0]  # the box is as long as the peg
        return (head[:, 1:].abs().amax(dim=1) <= off) & (head[:, 0] >= mouth + depth)

    return at_hole


def _charger_within(distance: float) -> Stage:
    """The charger is at most so far from where it is plugged in, m, and 0.2 rad turned."""
    return lambda simulator, info: (
        (info["obj_to_goal_dist"] <= distance) & (info["obj_to_goal_angle"] <= 0.2)
    )


STAGES: dict[str, dict[str, Stage]] = {
    "PickCube-v1": {"cube held": _told("is_grasped"), "cube at the goal": _told("is_obj_placed")},
    "StackCube-v1": {
        "cube held": _told("is_cubeA_grasped"),
        "over the other": _above("cubeA", "cubeB"),
        "on the other": _told("is_cubeA_on_cubeB"),
    },
    "PlaceSphere-v1": {
        "ball held": _told("is_obj_grasped"),
        "over the bin": _above("obj", "bin"),
        "in the bin": _told("is_obj_on_bin"),
    },
    "PegInsertionSide-v1": {
        "peg held": _holds("peg"),
        "10 mm off the hole's axis": _peg_at_hole(0.01, -0.05),
        "3 mm off at its mouth": _peg_at_hole(0.003, -0.01),
        "1 cm in": _peg_at_hole(0.003, 0.01),
    },
    "PlugCharger-v1": {
        "charger held": _holds("charger"),
        "5 cm off": _charger_within(0.05),
        "2 cm off": _charger_within(0.02),
        "1 cm off": _charger_within(0.01),
    },
    "PickNamedCube-v1": {"named cube held": _told("is_grasped")},
    "PickEitherCube-v1": {"a cube held": _told("is_grasped")},
    "PassPost-v1": {"cube held": _told("is_grasped")},
    "PassTwoPosts-v1": {"cube held": _told("is_grasped")},
    "PickCubeTwoStyles-v1": {"cube held": _told("is_grasped")},
}
"""By task, in their order; success comes after the last. Tasks that are not here have none."""


def stage_reached(task: str, simulator: Any, info: Mapping[str, torch.Tensor]) -> int:
    """The number of the last stage that the present state reaches, from 1; 0 for none.

    Args:
        task: its name.
        simulator: ManiSkill's environment.
        info: what its last step told.
    """
    held = [bool(stage(simulator, info)) for stage in STAGES.get(task, {}).values()]
    return max((number for number, reached in enumerate(held, 1) if reached), default=0)
