"""What is left out is chosen by the preset and the dataset, and kept in the checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import make_policy, make_pre_post_processors
from small_dataset import FPS, collate, metadata

from lerobot_policy_e0 import E0Config, E0Policy
from lerobot_policy_e0.defaults import default_horizon, default_image_size


def config(**changes: Any) -> E0Config:
    return E0Config(device="cpu", push_to_hub=False, noise_draws=1, **changes)


@pytest.mark.parametrize(
    ("preset", "fps", "steps"),
    [
        ("tiny", 10, 10),
        ("tiny", 30, 30),
        ("tiny", 1000, 32),
        ("tiny", 0.2, 1),
        ("paligemma", 30, 30),
        ("paligemma", 100, 50),
        ("tiny", None, 8),
        ("paligemma_pi0", None, 50),
    ],
)
def test_a_chunk_is_a_second(preset: str, fps: float | None, steps: int) -> None:
    assert default_horizon(preset, fps) == steps


@pytest.mark.parametrize(
    ("preset", "pictures", "size"),
    [
        ("tiny", [(3, 480, 640), (3, 240, 320)], (96, 128)),
        ("tiny", [(3, 720, 1280)], (72, 128)),
        ("tiny", [(3, 640, 480)], (128, 96)),
        ("tiny", [(3, 480, 640), (3, 224, 224)], None),
        ("tiny", [], None),
        ("paligemma", [(3, 480, 640)], None),
    ],
)
def test_pictures_keep_their_shape(preset: str, pictures: Any, size: Any) -> None:
    assert default_image_size(preset, pictures) == size


def test_large_presets_learn_slowly() -> None:
    assert (config().optimizer_lr, config().dtype) == (1e-3, "float32")
    large = config(preset="paligemma")
    assert large.optimizer_lr == 2.5e-5
    assert large.dtype == "float32", "no GPU here"
    assert large.get_optimizer_preset().lr == large.get_scheduler_preset().peak_lr == 2.5e-5
    assert config(preset="paligemma", optimizer_lr=1e-4).optimizer_lr == 1e-4


def test_a_checkpoint_keeps_what_was_chosen(
    image_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unfilled = config()
    longest = unfilled.action_delta_indices
    assert unfilled.horizon is None and len(longest) == 32
    batch = collate(image_dataset, unfilled, [0, 5])
    meta = metadata(image_dataset)
    with caplog.at_level(logging.INFO):
        policy = make_policy(unfilled, ds_meta=meta)
    told = f"chunks of {FPS} steps (1.00 s at {FPS} a second), of which 10 run (0.50 s)"
    assert told in caplog.text and "1 cameras at 128 × 128 px" in caplog.text
    preprocess, postprocess = make_pre_post_processors(policy.config, dataset_stats=meta.stats)
    batch = preprocess(batch)
    assert batch["action"].shape[1] == 32, "LeRobot asked before the rate was known"
    assert policy.forward(batch)[0].isfinite()
    assert policy.predict_action_chunk(batch).shape == (2, FPS, 7)
    for part in (policy, preprocess, postprocess):
        part.save_pretrained(tmp_path)
    kept = PreTrainedConfig.from_pretrained(tmp_path)
    assert (kept.horizon, kept.n_action_steps, kept.image_size) == (FPS, 10, (128, 128))
    again = E0Policy.from_pretrained(tmp_path)
    noise = torch.zeros(2, FPS, 7, 1)
    torch.testing.assert_close(
        again.predict(batch, noise=noise).actions, policy.predict(batch, noise=noise).actions
    )


def test_more_steps_to_run_make_a_longer_chunk(vector_dataset: Path) -> None:
    policy = make_policy(config(n_action_steps=25), ds_meta=metadata(vector_dataset))
    assert policy.config.horizon == 25
