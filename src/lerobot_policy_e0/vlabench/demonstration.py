"""What a demonstration of VLABench is, and what has to be true of its numbers.

Source: scripts/convert_to_lerobot.py and VLABench/robots/single_arm/franka.py of OpenMOSS/VLABench
47b04bf5. State and action name the gripper the other way round there, and so they do here: it is
what `e0 serve --robot vlabench` is told and answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from scipy.spatial.transform import Rotation

FRAME_RATE = 10  # steps of control a second
PICTURE = (480, 480, 3)
STATE_NAMES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper_closed"]
ACTION_NAMES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper_open"]
ANGLES = (3, 4, 5)
# From an action to the next state, in the median of an episode. The arm is still on its way when
# the step ends: by 6 mm and 0.014 rad in an episode of VLABench's own collection.
FARTHEST, MOST_TURNED = 0.05, 0.3  # metres, radians
AGREEMENT = 0.5  # share of steps whose grippers say the same


class DemonstrationError(ValueError):
    """A recording that is no demonstration of VLABench; the message says where and why."""


@dataclass(frozen=True, eq=False)
class Demonstration:
    """A demonstration without its pictures.

    place: the file, and what of it. states (T, 7): position from the robot's base along the world's
    axes in metres, Euler angles xyz in radians, gripper 0 open, 1 closed. actions (T, 7): the pose
    to go to, in the same frame, gripper 1 open, 0 closed. load: reads the pictures (T, 2, 480, 480,
    3) uint8 of the camera in front and on the wrist; raises DemonstrationError.
    """

    place: str
    instruction: str
    states: np.ndarray
    actions: np.ndarray
    load: Callable[[], np.ndarray]

    @property
    def digest(self) -> str:
        """The same for the same numbers and instruction, whatever the file is called."""
        content = self.states.tobytes() + self.actions.tobytes() + self.instruction.encode()
        return sha256(content).hexdigest()[:16]


def check_numbers(place: str, states: np.ndarray, actions: np.ndarray) -> None:
    """Raise DemonstrationError unless these are states and actions (T, 7) of one episode."""
    for name, values in (("states", states), ("actions", actions)):
        if not np.isfinite(values).all():
            step = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
            raise DemonstrationError(
                f"{place}: {name} that are no numbers from step {step} on; record it again"
            )
        if np.abs(values[:, 3:6]).max() > np.pi + 1e-4:
            raise DemonstrationError(
                f"{place}: Euler angles of the {name} reach {np.abs(values[:, 3:6]).max():.4g}; "
                "expected radians within ±pi"
            )
        if not np.isin(values[:, 6], (0, 1)).all():
            raise DemonstrationError(
                f"{place}: gripper of the {name} from {values[:, 6].min():.4g} to "
                f"{values[:, 6].max():.4g}; expected 0 or 1"
            )
    if len(states) > 1:
        _check_next_states(place, states, actions)


def _check_next_states(place: str, states: np.ndarray, actions: np.ndarray) -> None:
    """Whether the arm goes where the actions say."""
    beside = states[1:, :3] - actions[:-1, :3]
    distance = float(np.median(np.linalg.norm(beside, axis=1)))
    if distance > FARTHEST:
        offset = ", ".join(f"{value:.3f}" for value in np.median(beside, axis=0))
        raise DemonstrationError(
            f"{place}: the next states are {distance:.3g} m from the actions in the median, and "
            f"({offset}) beside them; expected less than {FARTHEST}: actions are the next pose, "
            "and counted from where the robot stands, as states are. Where a task moves the robot, "
            "VLABench's own conversion counts states from elsewhere, and older HDF5 files do not "
            "say where it stands: record these again"
        )
    turn = Rotation.from_euler("xyz", states[1:, 3:6]).inv() * Rotation.from_euler(
        "xyz", actions[:-1, 3:6]
    )
    turned = float(np.median(turn.magnitude()))
    if turned > MOST_TURNED:
        raise DemonstrationError(
            f"{place}: the next states are turned by {turned:.3g} rad from the actions in the "
            f"median; expected less than {MOST_TURNED}: Euler angles xyz about fixed axes in "
            "radians"
        )


def check_together(demonstrations: Sequence[Demonstration]) -> None:
    """Raise DemonstrationError for two that are the same, and for grippers of which state and
    action, as recorded, say the same: then one of them was turned round."""
    first: dict[str, Demonstration] = {}
    for demonstration in demonstrations:
        other = first.setdefault(demonstration.digest, demonstration)
        if other is not demonstration:
            raise DemonstrationError(
                f"{demonstration.place} and {other.place} hold the same numbers and instruction: "
                "leave one of them out"
            )
    agree = np.concatenate([d.states[1:, 6] != d.actions[:-1, 6] for d in demonstrations])
    if len(agree) and agree.mean() < AGREEMENT:
        raise DemonstrationError(
            f"the gripper of the next state is the action's in {100 * agree.mean():.0f} % of the "
            f"steps, from {demonstrations[0].place} on; expected most: a state is 1 and an action "
            "0 when the gripper is closed. One of both was turned round"
        )


def count_angles_without_jumps(
    demonstrations: Sequence[Demonstration],
) -> tuple[list[Demonstration], list[str]]:
    """The demonstrations, with those angles of the actions counted from 0 to 2 pi that jump less
    often there than within ±pi; and the names of these.

    A gripper that faces down has a roll of pi, which jumps to -pi and back. Both mean one pose, but
    a policy that takes their mean turns the gripper up. States stay as the client tells them.
    """
    turned = [d for d in ANGLES if _jumps(demonstrations, d, True) < _jumps(demonstrations, d)]
    changed = []
    for demonstration in demonstrations:
        actions = demonstration.actions.copy()
        actions[:, turned] = _from_zero(actions[:, turned])
        changed.append(replace(demonstration, actions=actions))
    return changed, [ACTION_NAMES[d] for d in turned]


def _jumps(demonstrations: Sequence[Demonstration], d: int, from_zero: bool = False) -> int:
    angles = [demonstration.actions[:, d] for demonstration in demonstrations]
    angles = [_from_zero(some) for some in angles] if from_zero else angles
    return sum(int((np.abs(np.diff(some)) > np.pi).sum()) for some in angles)


def _from_zero(angles: np.ndarray) -> np.ndarray:
    return np.where(angles < 0, angles + np.float32(2 * np.pi), angles)
