"""A small healthy dataset, and ways to break copies of it without recording anew."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from lerobot.datasets import LeRobotDataset
from PIL import Image

from e0_bench.doctor.reading import Column

EPISODES, STEPS, FPS, PIXELS = 6, 40, 20, 32
CAMERA = "observation.images.front"
ACTION_NAMES = ["x", "y", "z", "gripper"]
STATE_NAMES = ["x", "y", "z", "qx", "qy", "qz", "qw", "finger"]


def make_column(
    values: np.ndarray,
    names: list[str] | None = None,
    *,
    episodes: int = 1,
    feature: str = "observation.state",
) -> Column:
    """A column of equally long episodes."""
    values = np.asarray(values, float).reshape(len(values), -1)
    starts = np.arange(episodes) * (len(values) // episodes)
    dimensions = tuple(names or map(str, range(values.shape[1])))
    return Column(feature, dimensions, values, starts, np.arange(episodes))


def reach(episode: int) -> tuple[np.ndarray, np.ndarray]:
    """Actions (STEPS, 4) and states (STEPS, 8) of a hand that moves to a target, closes, and goes
    back: deltas of position in the base's frame, and 1 for an open gripper."""
    random = np.random.default_rng(episode)
    position, target, finger = random.normal(size=3) * 0.05, random.normal(size=3) * 0.3, 0.04
    actions, states = [], []
    for step in range(STEPS):
        goal = target if step < STEPS // 2 else -target
        opened = not STEPS // 3 < step < 3 * STEPS // 4
        delta = np.clip(3 * (goal - position) + 0.1 * random.normal(size=3), -1, 1)
        angle = 0.4 + 0.3 * np.sin(step / 9 + episode)
        quaternion = [np.sin(angle), 0.0, 0.0, np.cos(angle)]
        actions.append([*delta, 1.0 if opened else -1.0])
        states.append([*position, *quaternion, finger])
        position = position + 0.1 * delta + 0.0005 * random.normal(size=3)
        finger += np.clip((0.04 if opened else 0.0) - finger, -0.01, 0.01)
    return np.array(actions), np.array(states)


def picture(state: np.ndarray) -> np.ndarray:
    """A bright square where the hand is, above a floor that is darker than the sky."""
    image = np.full((PIXELS, PIXELS, 3), 210, np.uint8)
    image[PIXELS // 2 :] = (60, 90, 40)
    row, column = (np.clip(state[:2] + 0.6, 0, 1) * (PIXELS - 8)).astype(int)
    image[row : row + 8, column : column + 8] = (250, 40, 30)
    return image


def write_healthy(root: Path) -> Path:
    """Six episodes of two seconds, two tasks, one camera."""
    features: dict[str, Any] = {
        "action": {"dtype": "float32", "shape": (4,), "names": ACTION_NAMES},
        "observation.state": {"dtype": "float32", "shape": (8,), "names": STATE_NAMES},
        CAMERA: {
            "dtype": "image",
            "shape": (PIXELS, PIXELS, 3),
            "names": ["height", "width", "channels"],
        },
    }
    dataset = LeRobotDataset.create(
        f"local/{root.name}", FPS, features, root=root, use_videos=False
    )
    for episode in range(EPISODES):
        for action, state in zip(*reach(episode), strict=True):
            frame = {"action": action.astype(np.float32), CAMERA: picture(state)}
            task = ("push the cube", "pick up the cube")[episode % 2]
            frame["observation.state"] = state.astype(np.float32)
            dataset.add_frame({**frame, "task": task})
        dataset.save_episode()
    dataset.finalize()
    return root


def copy_of(healthy: Path, root: Path) -> Path:
    shutil.copytree(healthy, root)
    return root


def edit_column(
    root: Path, name: str, edit: Callable[[np.ndarray, np.ndarray], np.ndarray | None]
) -> None:
    """Rewrite a column: `edit` gets its values (N, ...) and each row's episode (N,), and changes
    them in place or returns others."""

    def change(table: pyarrow.Table) -> pyarrow.Table:
        values = np.array(table[name].to_pylist())
        changed = edit(values, table["episode_index"].to_numpy())
        kept = values if changed is None else changed
        column = pyarrow.array(kept.tolist(), table.schema.field(name).type)
        return table.set_column(table.column_names.index(name), table.schema.field(name), column)

    _rewrite(next((root / "data").glob("*/*.parquet")), change)


def edit_pictures(root: Path, edit: Callable[[np.ndarray, int], np.ndarray | None]) -> None:
    """Rewrite the pictures: `edit` gets each one and its episode; None leaves a broken file."""

    def change(table: pyarrow.Table) -> pyarrow.Table:
        rows = zip(table[CAMERA].to_pylist(), table["episode_index"].to_pylist(), strict=True)
        cells = [{**cell, "bytes": _edited(cell["bytes"], e, edit)} for cell, e in rows]
        field = table.schema.field(CAMERA)
        return table.set_column(
            table.column_names.index(CAMERA), field, pyarrow.array(cells, field.type)
        )

    _rewrite(next((root / "data").glob("*/*.parquet")), change)


def _edited(
    content: bytes, episode: int, edit: Callable[[np.ndarray, int], np.ndarray | None]
) -> bytes:
    image = edit(np.asarray(Image.open(io.BytesIO(content))), episode)
    if image is None:
        return b"no picture"
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def edit_tasks(root: Path, texts: list[str]) -> None:
    """Give the tasks other texts."""
    path = root / "meta/tasks.parquet"

    def change(table: pyarrow.Table) -> pyarrow.Table:
        field = table.schema.field("task")
        return table.set_column(
            table.column_names.index("task"), field, pyarrow.array(texts, field.type)
        )

    _rewrite(path, change)


def edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def _rewrite(path: Path, change: Callable[[pyarrow.Table], pyarrow.Table]) -> None:
    pyarrow.parquet.write_table(change(pyarrow.parquet.read_table(path)), path)
