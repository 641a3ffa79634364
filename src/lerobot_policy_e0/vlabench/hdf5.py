"""The HDF5 files that VLABench's own collection writes.

In the group `data` every episode is a group, named by the time when it was saved:

- `trajectory` (T, 8) float32: where the arm was sent, from the robot's base, in metres; Euler
  angles xyz; both fingers' targets in metres
- `instruction` (1,) bytes
- `observation/ee_state` (T, 8): position in the world, quaternion w first, 1 for a closed gripper
- `observation/rgb` (T, 4, 480, 480, 3) uint8, RGB, upright: right, left, forward, wrist
- `meta_info/episode_config`: JSON, which says where the robot stands; older files lack it

An observation is what was seen before the step of the trajectory in the same row. Depth, point
clouds and joints lie beside them and are not read.

Source: VLABench/utils/data_utils.py, utils/skill_lib.py, envs/dm_env.py and
scripts/trajectory_generation.py of OpenMOSS/VLABench 47b04bf5.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.spatial.transform import Rotation

from lerobot_policy_e0.vlabench.demonstration import (
    PICTURE,
    Demonstration,
    DemonstrationError,
    check_numbers,
)

TRAJECTORY, INSTRUCTION = "trajectory", "instruction"
STATE, PICTURES = "observation/ee_state", "observation/rgb"
SETUP = "meta_info/episode_config"
CAMERAS, FRONT = 4, 2  # the wrist's is the next one
BASE = (0.0, -0.4, 0.78)  # metres: where the robot stands if nothing says otherwise
FINGER = 0.04  # metres, of an open gripper
OPEN_ABOVE = 0.03  # metres; as in VLABench's own conversion


def read_file(file: Path) -> list[Demonstration]:
    """All episodes of a file, without their pictures.

    Raises DemonstrationError naming the file, the episode and the key that is not as described
    above, or for an episode that VLABench's video beside it says has failed.
    """
    _require_solved(file)
    with _opened(file) as content:
        group = content.get("data")
        if not isinstance(group, h5py.Group) or not len(group):
            raise DemonstrationError(
                f"{file}: no episode in it; expected one or more in the group 'data'. Remove it, "
                "and record it again"
            )
        return [_read_episode(file, str(name), group[name]) for name in group]


def _opened(file: Path) -> h5py.File:
    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise DemonstrationError(
            f"{file} is no whole HDF5 file: {error}. If VLABench still writes it, wait; if it was "
            "ended while it did, remove it and record it again"
        ) from error


def _require_solved(file: Path) -> None:
    """VLABench saves only what solved the task, and writes a video of each try."""
    video = f"demo_{file.stem.removeprefix('data_')}_success_"
    if (file.parent / f"{video}False.mp4").exists() and not list(file.parent.glob(f"{video}True*")):
        raise DemonstrationError(
            f"{file}: {video}False.mp4 beside it says that the episode failed; move the file away"
        )


def _read_episode(file: Path, name: str, group: Any) -> Demonstration:
    place = f"{file}, data/{name}"
    trajectory = _dataset(place, group, TRAJECTORY)
    steps = len(trajectory) if trajectory.ndim else 0
    if not steps:
        raise DemonstrationError(f"{place}: {TRAJECTORY} has no steps; remove the file")
    _require_shape(place, trajectory, TRAJECTORY, (steps, 8))
    _require_shape(place, _dataset(place, group, STATE), STATE, (steps, 8))
    pictures = _dataset(place, group, PICTURES)
    _require_shape(place, pictures, PICTURES, (steps, CAMERAS, *PICTURE))
    if pictures.dtype != np.uint8:
        raise DemonstrationError(f"{place}: {PICTURES} of {pictures.dtype}; expected uint8")
    states = told_states(place, _read(place, group, STATE), _base(place, group))
    actions = told_actions(place, _read(place, group, TRAJECTORY))
    check_numbers(place, states, actions)
    load = partial(_load_pictures, file, name)
    return Demonstration(place, _instruction(place, group), states, actions, load)


def told_states(place: str, ee_states: np.ndarray, base: np.ndarray) -> np.ndarray:
    """What a policy is told of VLABench's states of the end effector (T, 8), float32 (T, 7).

    base (3,): where the robot stands, in metres. Raises DemonstrationError for quaternions that are
    no rotations.
    """
    norms = np.linalg.norm(ee_states[:, 3:7], axis=1)
    if not (np.abs(norms - 1) < 1e-3).all():  # also if they are no numbers
        step = int(np.flatnonzero(~(np.abs(norms - 1) < 1e-3))[0])
        raise DemonstrationError(
            f"{place}: {STATE} has a quaternion of norm {norms[step]:.4g} in step {step}; expected "
            "1, of (w, x, y, z) in columns 3 to 6"
        )
    euler = Rotation.from_quat(np.roll(ee_states[:, 3:7], -1, axis=1)).as_euler("xyz")
    return np.column_stack([ee_states[:, :3] - base, euler, ee_states[:, 7]]).astype(np.float32)


def told_actions(place: str, trajectory: np.ndarray) -> np.ndarray:
    """The actions (T, 7) of a trajectory (T, 8): fingers become 1 open or 0 closed.

    Raises DemonstrationError for fingers that are not a Franka's.
    """
    fingers = trajectory[:, 6:]
    outside = ~((fingers > -1e-4) & (fingers < FINGER + 1e-4))
    if outside.any():
        step = int(np.flatnonzero(outside.any(1))[0])
        raise DemonstrationError(
            f"{place}: {TRAJECTORY} sends the fingers to {fingers[step]} in step {step}; expected "
            f"0 to {FINGER} m, of a Franka's"
        )
    opened = fingers[:, 1] > OPEN_ABOVE
    return np.column_stack([trajectory[:, :6], opened]).astype(np.float32)


def _load_pictures(file: Path, name: str) -> np.ndarray:
    """The pictures (T, 2, 480, 480, 3) of the camera in front and on the wrist."""
    with _opened(file) as content:
        return _read(f"{file}, data/{name}", content[f"data/{name}"], PICTURES, FRONT)


def _dataset(place: str, group: Any, key: str) -> h5py.Dataset:
    found = group.get(key) if isinstance(group, h5py.Group) else None
    if not isinstance(found, h5py.Dataset):
        kept = sorted(_keys(group))
        raise DemonstrationError(
            f"{place}: no {key!r}; there are {', '.join(kept) or 'none'}. If VLABench was ended "
            "while it wrote the file, remove it and record it again"
        )
    return found


def _keys(group: Any) -> list[str]:
    """The datasets in a group and in the groups in it."""
    keys: list[str] = []
    if isinstance(group, h5py.Group):
        group.visititems(lambda key, item: keys.append(key) if hasattr(item, "dtype") else None)
    return keys


def _require_shape(place: str, found: h5py.Dataset, key: str, expected: tuple[int, ...]) -> None:
    if found.shape != expected:
        raise DemonstrationError(f"{place}: {key} of shape {found.shape}; expected {expected}")


def _read(place: str, group: Any, key: str, first: int | None = None) -> np.ndarray:
    """All of it, or of the second axis two from `first` on."""
    dataset = _dataset(place, group, key)
    try:
        return np.asarray(dataset[()] if first is None else dataset[:, first : first + 2])
    except OSError as error:
        raise DemonstrationError(
            f"{place}: {key} is damaged: {error}. Copy the file again, or remove it"
        ) from error


def _instruction(place: str, group: Any) -> str:
    found = np.ravel(_read(place, group, INSTRUCTION))
    text = (
        found[0].decode(errors="replace").strip() if found.dtype.kind == "S" and len(found) else ""
    )
    if not text:
        raise DemonstrationError(
            f"{place}: {INSTRUCTION} is empty, so nothing tells a policy what to do; leave it out, "
            "or write one into it"
        )
    return text


def _base(place: str, group: Any) -> np.ndarray:
    """Where the robot stands (3,), in metres."""
    if SETUP not in group:
        return np.array(BASE)
    text = _read(place, group, SETUP)
    try:
        return np.array(json.loads(text.item())["robot"]["position"], np.float64).reshape(3)
    except (ValueError, KeyError, TypeError) as error:
        raise DemonstrationError(
            f"{place}: {SETUP} does not say where the robot stands ({error}); expected JSON with "
            "robot.position, three numbers"
        ) from error
