"""HDF5 files as VLABench's own collection writes them, of an arm that reaches down and grips.

The layout is that of `save_single_data` in VLABench/utils/data_utils.py of OpenMOSS/VLABench
47b04bf5, without depth, point clouds and joints.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image
from scipy.spatial.transform import Rotation

from e0_vlabench.poses import told_state

BASE = (0.0, -0.4, 0.78)
STEPS = 12
CAMERAS = 4
INSTRUCTION = "Put the banana into the plate"
SAVED = "2025-06-01 12:00:00"


def recording(
    seed: int = 0, *, steps: int = STEPS, base: tuple[float, ...] = BASE
) -> dict[str, Any]:
    """What a file holds of an episode, by its keys. The gripper faces down, so that its roll jumps
    from -pi to pi on the way. The pictures of each camera have a grey of their own, which grows
    with the steps, under a brighter square."""
    random = np.random.default_rng(seed)
    start = np.array([0, 0.3, 0.4]) + random.uniform(-0.1, 0.1, 3)
    bend, reach = random.uniform(-0.1, 0.1, (2, 3)) + np.array([0, 0.1, -0.2])
    way = np.linspace(0, 1, steps + 1)[:, None]
    poses = start + way * reach + np.sin(3 * way) * bend
    turns = np.array([-3.0, 0.02, -1.6]) + np.sin(2 * way) * np.array([-0.3, 0.05, 0.1])
    quaternions = Rotation.from_euler("xyz", turns).as_quat()
    euler = Rotation.from_quat(quaternions).as_euler("xyz")
    closing = np.clip(np.arange(steps + 1) - steps // 2, 0, 4) / 4
    fingers = 0.04 * (1 - closing[1:])
    greys = (10 * np.arange(CAMERAS) + np.arange(steps)[:, None]).astype(np.uint8)
    pictures = np.tile(greys[..., None, None, None], (480, 480, 3))
    pictures[:, :, 100:200, 100:200] += 100
    config = {"robot": {"name": "franka", "position": base}}
    return {
        "trajectory": np.c_[poses[1:], euler[1:], fingers, fingers].astype("f4"),
        "instruction": np.array([INSTRUCTION.encode()]),
        "observation/ee_state": np.c_[poses + base, np.roll(quaternions, 1, axis=1), closing > 0.2][
            :-1
        ].astype("f4"),
        "observation/rgb": pictures,
        "meta_info/episode_config": np.bytes_(json.dumps(config)),
        "meta_info/entities": np.array([b"banana", b"plate"]),
    }


def write_recording(file: Path, content: dict[str, Any], name: str = SAVED) -> Path:
    """Add an episode to a file. Pictures of which only the shape is given take no time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "a") as opened:
        group = opened.require_group(f"data/{name}")
        for key, value in content.items():
            if isinstance(value, tuple):
                group.create_dataset(key, value, np.uint8, compression="gzip")
            else:
                packed = (
                    {"compression": "gzip", "compression_opts": 1} if np.ndim(value) > 1 else {}
                )
                group.create_dataset(key, data=value, **packed)
    return file


def blind(seed: int = 0, **options: Any) -> dict[str, Any]:
    """A recording of whose pictures only the shape is there."""
    content = recording(seed, **options)
    return content | {"observation/rgb": content["observation/rgb"].shape}


def write_converted(root: Path, contents: Sequence[dict[str, Any]]) -> Path:
    """The dataset of LeRobot v2.1 that VLABench's convert_to_lerobot.py makes of recordings."""
    features: dict[str, Any] = {
        name: {"dtype": "image", "shape": [480, 480, 3]} for name in ("image", "wrist_image")
    }
    features |= {name: {"dtype": "float32", "shape": [7]} for name in ("state", "actions")}
    info = {"codebase_version": "v2.1", "fps": 10, "features": features}
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": INSTRUCTION}))
    (root / "data/chunk-000").mkdir(parents=True)
    for episode, content in enumerate(contents):
        states, trajectory = content["observation/ee_state"], content["trajectory"]
        steps, pictures = len(states), content["observation/rgb"]
        opened = trajectory[:, 7:] > 0.03
        columns = {
            "image": [_png(picture) for picture in pictures[:, 2]],
            "wrist_image": [_png(picture) for picture in pictures[:, 3]],
            "state": [told_state(state.astype(float)).tolist() for state in states],
            "actions": np.c_[trajectory[:, :6], opened].astype("f4").tolist(),
            "episode_index": [episode] * steps,
            "task_index": [0] * steps,
        }
        path = root / f"data/chunk-000/episode_{episode:06}.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return root


def _png(picture: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png", compress_level=1)
    return {"bytes": file.getvalue(), "path": None}
