"""Frames in memory: read as asked for, no larger than needed, refused where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot.datasets import LeRobotDataset
from small_dataset import CAMERA, EPISODES, PIXELS, STEPS, build, make_config, open_dataset

from e0.network.vision import resize
from lerobot_policy_e0 import dataset as dataset_module
from lerobot_policy_e0.dataset import FramesInMemory, bytes_needed, memory_available
from lerobot_policy_e0.standard_augmentation import StandardAugmentation
from lerobot_policy_e0.training import picture_options


def test_frames_are_decoded_as_asked_for(video_dataset: Path, monkeypatch: Any) -> None:
    asked = []
    dataset = open_dataset(video_dataset, make_config(), video_backend="pyav", tolerance_s=0.02)
    opened = LeRobotDataset.__init__

    def watch(self: LeRobotDataset, *arguments: Any, **options: Any) -> None:
        asked.append(options)
        opened(self, *arguments, **options)

    monkeypatch.setattr(LeRobotDataset, "__init__", watch)
    FramesInMemory(dataset)
    assert asked[0]["video_backend"] == "pyav" and asked[0]["tolerance_s"] == 0.02


def test_larger_pictures_are_kept_as_the_network_sees_them(image_dataset: Path) -> None:
    dataset = open_dataset(image_dataset, make_config())
    small = FramesInMemory(dataset, (16, 32))[5][CAMERA]
    whole = FramesInMemory(dataset, (2 * PIXELS, PIXELS))[5][CAMERA]
    assert small.shape == (3, 16, 32) and whole.shape == (3, PIXELS, PIXELS)
    expected = resize(whole[None].float() / 255, (16, 32), antialias=True)[0]
    torch.testing.assert_close(small / 255, expected, atol=0.5 / 255 + 1e-6, rtol=0)


def test_pictures_that_are_augmented_keep_their_size(image_dataset: Path) -> None:
    policy = build(image_dataset, image_size=(32, 48))[0]
    assert picture_options(policy.config) == {"picture_size": (32, 48), "antialias": True}
    augmented = StandardAugmentation(probability=0.5)
    policy = build(image_dataset, image_size=(32, 48), standard_augmentation=augmented)[0]
    assert picture_options(policy.config) == {}


def test_what_does_not_fit_is_refused_before_it_is_read(
    image_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(image_dataset, make_config())
    needed = bytes_needed(dataset, None)
    assert needed == EPISODES * STEPS * 3 * PIXELS * PIXELS
    assert bytes_needed(dataset, (16, 32)) == EPISODES * STEPS * 3 * 16 * 32
    monkeypatch.setattr(dataset_module, "memory_available", lambda: needed - 1)
    monkeypatch.setattr(dataset_module, "_decode_once", lambda *_: pytest.fail("frames were read"))
    with pytest.raises(ValueError, match=r"takes 0\.0 GB, and 0\.0 GB are left.*lerobot-train"):
        FramesInMemory(dataset)
    monkeypatch.setattr(dataset_module, "memory_available", lambda: 2 * needed - 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="in each of 2 processes"):
        FramesInMemory(dataset)


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "CONTROL_GROUP", tmp_path)
    machine = memory_available()
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert memory_available() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_available() > machine / 2
