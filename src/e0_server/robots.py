"""What robots' clients send and take, as tables: names, sizes, order, conventions.

The names on the wire are openpi's (examples of openpi 15a9616a; `franka` is that of E0's authors,
Doo-mon/e0 9e32518d, `vlabench` that of OpenMOSS/VLABench 47b04bf5 and of the data that its
`scripts/convert_to_lerobot.py` writes). Nested maps count as one name, joined by "/". A table says
which of a checkpoint's LeRobot features each key becomes; the first name that the checkpoint has
counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STATE = "observation.state"
IMAGES = "observation.images."


@dataclass(frozen=True)
class Feature:
    """An input of a checkpoint: a picture's shape is (3, height, width), a vector's (size,)."""

    shape: tuple[int, ...]

    @property
    def is_picture(self) -> bool:
        return len(self.shape) == 3


@dataclass(frozen=True)
class Picture:
    """A camera's key on the wire and the features that it may be in a checkpoint."""

    key: str
    features: tuple[str, ...]


@dataclass(frozen=True)
class Vector:
    """A feature that is put together from keys of the given sizes, in this order."""

    feature: str
    parts: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class WireFormat:
    """What the clients of a kind of robot send and take.

    rows: steps that a reply must have; None for all of the chunk. least_rows: steps that clients
    execute before they ask again. action_size: numbers of an action, None for any. rate: control
    steps a second. conventions: units, rotation and gripper, in words, told to clients.
    """

    pictures: tuple[Picture, ...]
    vectors: tuple[Vector, ...]
    action_size: int | None = None
    rows: int | None = None
    least_rows: int = 1
    rate: float | None = None
    conventions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """How one checkpoint reads one robot's messages: for each feature its keys with their sizes
    (a picture has one key, of size 0)."""

    sources: Mapping[str, tuple[tuple[str, int], ...]]
    rows: int | None


class RobotFormatError(ValueError):
    """A checkpoint that a robot's clients cannot use."""


def _images(*names: str) -> tuple[str, ...]:
    return tuple(IMAGES + name for name in names)


_PICTURES = "uint8 (height, width, 3) or (3, height, width), RGB; floats in [0, 1] are taken too"

FORMATS: Mapping[str, WireFormat] = {
    "libero": WireFormat(
        pictures=(
            Picture("observation/image", _images("image", "agentview_image", "front")),
            Picture(
                "observation/wrist_image",
                _images("wrist_image", "image2", "robot0_eye_in_hand_image", "wrist"),
            ),
        ),
        vectors=(Vector(STATE, (("observation/state", 8),)),),
        action_size=7,
        least_rows=5,
        rate=20.0,
        conventions={
            "pictures": _PICTURES + "; as rendered, turned by 180 degrees",
            "observation/state": "end effector (3, m), axis-angle (3, rad), fingers (2, m)",
            "actions": "end effector delta (3 + 3, in [-1, 1]), gripper -1 open, 1 closed",
        },
    ),
    "droid": WireFormat(
        pictures=(
            Picture(
                "observation/exterior_image_1_left",
                _images("exterior_image_1_left", "exterior_1_left"),
            ),
            Picture(
                "observation/wrist_image_left", _images("wrist_image_left", "wrist_left", "wrist")
            ),
        ),
        vectors=(
            Vector(STATE, (("observation/joint_position", 7), ("observation/gripper_position", 1))),
        ),
        action_size=8,
        rows=10,
        rate=15.0,
        conventions={
            "pictures": _PICTURES,
            "observation/joint_position": "rad",
            "observation/gripper_position": "0 open, 1 closed",
            "actions": "joint velocities (7, in [-1, 1]), gripper 0 open, 1 closed",
        },
    ),
    "aloha": WireFormat(
        pictures=tuple(
            Picture(f"images/{name}", _images(name))
            for name in ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
        ),
        vectors=(Vector(STATE, (("state", 14),)),),
        action_size=14,
        rate=50.0,
        conventions={
            "pictures": _PICTURES,
            "state": "for each arm 6 joints (rad) and the gripper, as in the training data",
            "actions": "absolute joint positions and grippers, as in the training data",
        },
    ),
    "franka": WireFormat(
        pictures=(
            Picture("observation/image", _images("image", "front", "base")),
            Picture("observation/wrist_image", _images("wrist_image", "wrist")),
            Picture("observation/second_image", _images("second_image", "side")),
        ),
        vectors=(Vector(STATE, (("observation/state", 8),)),),
        action_size=8,
        least_rows=10,
        rate=30.0,
        conventions={
            "pictures": _PICTURES,
            "observation/state": "7 joints (rad), gripper width (m)",
            "actions": "absolute joints (7, rad), gripper, as in the training data",
        },
    ),
    "vlabench": WireFormat(
        pictures=(
            Picture("observation/image", _images("image", "front")),
            Picture("observation/wrist_image", _images("wrist_image", "wrist")),
        ),
        vectors=(Vector(STATE, (("observation/state", 7),)),),
        action_size=7,
        rate=10.0,
        conventions={
            "pictures": _PICTURES + "; upright, as rendered",
            "observation/state": "end effector from the base along the world's axes (3, m), "
            "Euler angles xyz about them (3, rad), gripper 0 open, 1 closed",
            "actions": "the end effector's next pose, absolute, as in the state; gripper 1 open, "
            "0 closed",
        },
    ),
    "maniskill": WireFormat(
        pictures=tuple(
            Picture(f"pixels/{name}", _images(name)) for name in ("base_camera", "hand_camera")
        ),
        vectors=(
            Vector(STATE, (("agent_pos", 0),)),
            Vector("observation.environment_state", (("environment_state", 0),)),
        ),
        action_size=7,
        rate=20.0,
        conventions={
            "pictures": _PICTURES,
            "observation": "as `e0_maniskill.env.ManiSkillEnv` gives it",
            "actions": "tool delta (3 + 3, in [-1, 1]), gripper 1 open, -1 closed",
        },
    ),
}
NATIVE = "native"
ROBOTS = (NATIVE, *FORMATS)


def layout_of(
    robot: str,
    inputs: Mapping[str, Feature],
    action_size: int,
    horizon: int,
    renamed: Mapping[str, str] | None = None,
) -> Layout:
    """How a checkpoint reads what the clients of a robot send.

    inputs: the checkpoint's features by LeRobot name. horizon: steps of its chunks. renamed: keys
    on the wire and the features that they become, where the table's names are not the checkpoint's.

    Raises RobotFormatError saying which features no key becomes, or what else does not fit.
    """
    renamed = dict(renamed or {})
    if robot == NATIVE:
        names = {name: key for key, name in renamed.items()}
        _require_known(set(names), set(inputs), "feature of this checkpoint")
        return Layout(
            {name: ((names.get(name, name), _size(f)),) for name, f in inputs.items()}, None
        )
    if robot not in FORMATS:
        raise RobotFormatError(f"unknown robot {robot!r}; known: {', '.join(ROBOTS)}")
    table = FORMATS[robot]
    _require_known(set(renamed), {p.key for p in table.pictures}, f"picture of {robot}")
    _require_known(set(renamed.values()), set(inputs), "feature of this checkpoint")
    sources: dict[str, tuple[tuple[str, int], ...]] = {}
    for picture in table.pictures:
        names = (renamed[picture.key],) if picture.key in renamed else picture.features
        name = next((name for name in names if name in inputs), None)
        if name is not None:
            sources[name] = ((picture.key, 0),)
    for vector in table.vectors:
        if vector.feature in inputs:
            sources[vector.feature] = _parts(robot, vector, inputs[vector.feature])
    lacking = sorted(set(inputs) - set(sources))
    if lacking:
        keys = [p.key for p in table.pictures] + [k for v in table.vectors for k, _ in v.parts]
        raise RobotFormatError(
            f"this checkpoint takes {', '.join(lacking)}, which no key of robot {robot!r} becomes; "
            f"its clients send {', '.join(keys)}. Name the pictures with --rename KEY=FEATURE, or "
            "use --robot=native"
        )
    _require_actions(robot, table, action_size, horizon)
    return Layout(sources, table.rows)


def _parts(robot: str, vector: Vector, feature: Feature) -> tuple[tuple[str, int], ...]:
    (size,) = feature.shape
    if len(vector.parts) == 1 and vector.parts[0][1] == 0:
        return ((vector.parts[0][0], size),)
    sent = sum(part for _, part in vector.parts)
    if sent != size:
        told = ", ".join(f"{key} ({part})" for key, part in vector.parts)
        raise RobotFormatError(
            f"this checkpoint takes {vector.feature} of {size} numbers, clients of {robot!r} send "
            f"{sent}: {told}"
        )
    return vector.parts


def _require_actions(robot: str, table: WireFormat, action_size: int, horizon: int) -> None:
    if table.action_size not in (None, action_size):
        raise RobotFormatError(
            f"this checkpoint gives actions of {action_size} numbers, clients of {robot!r} take "
            f"{table.action_size}"
        )
    least = table.rows or table.least_rows
    if horizon < least:
        raise RobotFormatError(
            f"this checkpoint gives chunks of {horizon} steps, clients of {robot!r} execute {least}"
        )


def _require_known(names: set[str], known: set[str], what: str) -> None:
    unknown = sorted(names - known)
    if unknown:
        raise RobotFormatError(
            f"--rename: {', '.join(unknown)} is no {what}; there are {', '.join(sorted(known))}"
        )


def _size(feature: Feature) -> int:
    return 0 if feature.is_picture else feature.shape[0]
