"""People's demonstrations of Adroit's door as a LeRobotDataset.

    python -m lerobot_env_adroit.demonstrations door-v0_demos.pickle --output outputs/adroit_door

The file is that of https://github.com/aravindr93/hand_dapg (dapg/demonstrations): 25 episodes by
people in virtual reality with a glove. Their actions are replayed from where they began, and what
the simulation shows meanwhile is written: it has changed since, and what was recorded then begins
up to .4 rad away from where an episode begins now. Actions beyond a motor's range count as its end,
as they did then.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import numpy as np
import tyro
from datasets import disable_progress_bars
from lerobot.datasets import LeRobotDataset
from tqdm import tqdm

from lerobot_env_adroit.config import TASK
from lerobot_env_adroit.door import ACTION_SIZE, DOOR_SIZE, FREQUENCY, HAND_SIZE, OPEN, AdroitDoor

_RECONSTRUCT = np.zeros(0).__reduce__()[0]
ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,  # its name since NumPy 2
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
BROKEN = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError),
    *(OverflowError, MemoryError),
)
"""What reading a pickle that is none, or damaged, raises."""
STATE = {"qpos": 30, "qvel": 30, "door_body_pos": 3}
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (HAND_SIZE,), "names": None},
    "observation.environment_state": {"dtype": "float32", "shape": (DOOR_SIZE,), "names": None},
    "action": {"dtype": "float32", "shape": (ACTION_SIZE,), "names": None},
}


class DemonstrationsError(ValueError):
    """A file that does not hold demonstrations of Adroit's door."""


@dataclass(frozen=True)
class Replayed:
    """One demonstration, replayed. clipped: steps whose action lay beyond -1 or 1, where it was cut
    off. opened: by how much the door was at most open, rad."""

    states: list[dict[str, np.ndarray]]
    actions: np.ndarray
    clipped: int
    opened: float
    success: bool


class _ArraysAlone(pickle.Unpickler):
    """A pickle may name any function to be called; here only those that make NumPy's arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise DemonstrationsError(
                f"the file wants to run {module}.{name}; demonstrations hold arrays alone"
            )
        return ALLOWED[module, name]


def read_demonstrations(path: Path) -> list[dict[str, Any]]:
    """The demonstrations, each with actions (T, 28) and the state that it began in. Raises
    DemonstrationsError for anything else, OSError for a file that cannot be read."""
    try:
        found = _ArraysAlone(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except DemonstrationsError as error:
        raise DemonstrationsError(f"{path}: {error}") from None
    except BROKEN as error:
        raise DemonstrationsError(f"{path} is no file of demonstrations: {error}") from error
    if not isinstance(found, list) or not found:
        raise DemonstrationsError(f"{path} holds no list of demonstrations")
    for number, one in enumerate(found):
        _check(one, f"{path}, demonstration {number}")
    return found


def _check(one: Any, where: str) -> None:
    actions = one.get("actions") if isinstance(one, dict) else None
    if not (_is_finite(actions) and actions.shape[1:] == (ACTION_SIZE,) and len(actions)):
        raise DemonstrationsError(f"{where} has no finite actions of shape (T, {ACTION_SIZE})")
    began = one.get("init_state_dict")
    if not isinstance(began, dict) or not all(
        _is_finite(began.get(name)) and began[name].shape == (size,) for name, size in STATE.items()
    ):
        wanted = ", ".join(f"{name} ({size},)" for name, size in STATE.items())
        raise DemonstrationsError(f"{where} does not say where it begins: {wanted}")


def _is_finite(array: Any) -> TypeGuard[np.ndarray]:
    return (
        isinstance(array, np.ndarray)
        and np.issubdtype(array.dtype, np.floating)
        and bool(np.isfinite(array).all())
    )


def replay(door: AdroitDoor, demonstration: dict[str, Any]) -> Replayed:
    """Do what was demonstrated, from where it began, until the door is open or it ends."""
    door.reset(seed=0)
    began = demonstration["init_state_dict"]
    seen = door.start_from({name: began[name] for name in STATE})
    given = demonstration["actions"]
    actions = given.clip(-1.0, 1.0).astype(np.float32)
    beyond = (np.abs(given) > 1.0).any(axis=1)
    states, opened, success = [], 0.0, False
    for action in actions:
        states.append(seen)
        seen, _, success, _, _ = door.step(action)
        opened = max(opened, door.opened)
        if success:
            break
    taken = len(states)
    return Replayed(states, actions[:taken], int(beyond[:taken].sum()), opened, success)


def write_dataset(demonstrations: list[dict[str, Any]], output: Path) -> list[Replayed]:
    """Replay them all and write a LeRobotDataset, whole or not at all; returns what was written.

    Raises FileExistsError if there is something at the output."""
    if output.exists():
        raise FileExistsError(f"{output} exists already; choose another output directory")
    disable_progress_bars()  # one for each episode, else
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as own:
        draft = Path(own, "dataset")
        written = _write(demonstrations, draft, output.name)
        os.sync()
        draft.rename(output)
    return written


def _write(demonstrations: list[dict[str, Any]], draft: Path, name: str) -> list[Replayed]:
    door = AdroitDoor()
    dataset = LeRobotDataset.create(
        f"local/{name}", FREQUENCY, FEATURES, root=draft, use_videos=False
    )
    written = []
    for demonstration in tqdm(demonstrations, unit="demonstration"):
        replayed = replay(door, demonstration)
        for state, action in zip(replayed.states, replayed.actions, strict=True):
            dataset.add_frame(
                {
                    "observation.state": state["agent_pos"],
                    "observation.environment_state": state["environment_state"],
                    "action": action,
                    "task": door.task_description,
                }
            )
        dataset.save_episode()
        written.append(replayed)
    dataset.finalize()
    door.close()
    return written


def convert(source: Annotated[Path, tyro.conf.Positional], /, output: Path) -> None:
    """Write people's demonstrations of Adroit's door as a LeRobotDataset.

    Args:
        source: door-v0_demos.pickle.
        output: directory of the dataset; nothing may lie there.
    """
    try:
        written = write_dataset(read_demonstrations(source), output)
    except (DemonstrationsError, OSError) as error:
        sys.exit(f"error: {error}")
    opened = sum(one.opened > OPEN for one in written)
    frames = sum(len(one.actions) for one in written)
    print(
        f"{output}: {len(written)} demonstrations of {TASK}, {frames} frames, in "
        f"{sum(one.clipped for one in written)} of which the action lay beyond a motor's range and "
        f"was cut off there; replayed, {opened} open the door by {OPEN:g} rad, "
        f"{sum(one.success for one in written)} by 1.35 rad"
    )


if __name__ == "__main__":
    tyro.cli(convert)
