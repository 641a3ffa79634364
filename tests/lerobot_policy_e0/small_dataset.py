"""Small LeRobotDatasets v3 and policies for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.policies import make_policy, make_pre_post_processors
from torch.utils.data import default_collate

from lerobot_policy_e0 import E0Config, E0Policy

EPISODES, STEPS, FPS, PIXELS = 4, 12, 20, 64
TASKS = ("push the cube", "pick up the cube")
CAMERA = "observation.images.front"
VECTORS = {"observation.state": 4, "observation.force": 3}
ACTION_DIM, HORIZON = 7, 5


def write_dataset(
    root: Path,
    camera: str | None = None,
    *,
    vectors: dict[str, int] | None = None,
    actions: np.ndarray | None = None,
    without_action: bool = False,
) -> Path:
    """Four episodes of twelve steps, two tasks in turn; `camera` is "image", "video" or None.

    `actions` (EPISODES, STEPS, D) replace smooth ones in [-1, 1] whose last dimension is ±1.
    """
    random = np.random.default_rng(0)
    vectors = VECTORS if vectors is None else vectors
    if actions is None:
        actions = np.sin(random.normal(size=(EPISODES, 1, ACTION_DIM)) + np.arange(STEPS)[:, None])
        actions[..., -1] = np.sign(actions[..., -1])
    sizes = {**vectors} if without_action else {**vectors, "action": actions.shape[-1]}
    features: dict[str, Any] = {
        name: {"dtype": "float32", "shape": (size,), "names": None} for name, size in sizes.items()
    }
    if camera is not None:
        shape = (PIXELS, PIXELS, 3)
        features[CAMERA] = {
            "dtype": camera,
            "shape": shape,
            "names": ["height", "width", "channels"],
        }
    dataset = LeRobotDataset.create(
        f"local/{root.name}", FPS, features, root=root, use_videos=camera == "video"
    )
    for episode in range(EPISODES):
        for step in range(STEPS):
            frame: dict[str, Any] = {
                name: random.normal(size=size).astype(np.float32) for name, size in vectors.items()
            }
            if not without_action:
                frame["action"] = actions[episode, step].astype(np.float32)
            if camera is not None:
                frame[CAMERA] = picture(episode, step)
            dataset.add_frame({**frame, "task": TASKS[episode % 2]})
        dataset.save_episode()
    dataset.finalize()
    return root


def picture(episode: int, step: int) -> np.ndarray:
    """A bright square that moves with the step, on a background of the episode's colour."""
    image = np.full((PIXELS, PIXELS, 3), 40 * episode, np.uint8)
    image[10:30, 4 * step : 4 * step + 16] = (250, 120, 30)
    return image


def metadata(root: Path) -> LeRobotDatasetMetadata:
    return LeRobotDatasetMetadata(f"local/{root.name}", root=root)


def make_config(**changes: Any) -> E0Config:
    settings = {"device": "cpu", "push_to_hub": False, "horizon": HORIZON, "noise_draws": 2}
    return E0Config(**{**settings, "n_action_steps": 3, "vocabulary_size": 64, **changes})


def open_dataset(root: Path, config: E0Config, **options: Any) -> LeRobotDataset:
    """The dataset with action chunks, as LeRobot's training loop opens it."""
    meta = metadata(root)
    chunks = resolve_delta_timestamps(config, meta)
    return LeRobotDataset(meta.repo_id, root=root, delta_timestamps=chunks, **options)


def build(root: Path, **changes: Any) -> tuple[E0Policy, Any, Any]:
    """A fresh policy for a dataset with its pre- and postprocessor, through LeRobot's factories."""
    torch.manual_seed(0)
    config, meta = make_config(**changes), metadata(root)
    policy = make_policy(config, ds_meta=meta)
    assert isinstance(policy, E0Policy)
    return policy, *make_pre_post_processors(config, dataset_stats=meta.stats)


def collate(root: Path, config: E0Config, indices: list[int]) -> dict[str, Any]:
    dataset = open_dataset(root, config)
    return default_collate([dataset[index] for index in indices])
