"""What is chosen where the user says nothing: by the preset, and by the dataset's rate and cameras.

A checkpoint keeps the numbers that came out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from e0.network.presets import find_preset
from e0.network.vision import KeypointShape
from e0.policy import PolicySettings

SECONDS_AHEAD = 1.0


@dataclass(frozen=True)
class TrainingDefaults:
    """learning_rate: the peak. half_precision: bfloat16 where the device has it. longest_horizon:
    steps of the longest chunk that the preset was made for."""

    learning_rate: float
    half_precision: bool
    longest_horizon: int


FROM_SCRATCH = TrainingDefaults(1e-3, half_precision=False, longest_horizon=32)
# openpi trains pi-0 and pi-0.5 with this rate, and chunks of 50 steps.
PRETRAINED = TrainingDefaults(2.5e-5, half_precision=True, longest_horizon=50)


def training_defaults(preset: str) -> TrainingDefaults:
    """By whether the preset is one that starts from weights of others."""
    return FROM_SCRATCH if isinstance(find_preset(preset).vision, KeypointShape) else PRETRAINED


def default_dtype(preset: str, device: str | None) -> str:
    """float32, or bfloat16 for a large preset on a GPU that has it."""
    on_gpu = (device or "").startswith("cuda") and torch.cuda.is_available()
    half = training_defaults(preset).half_precision and on_gpu
    return "bfloat16" if half and torch.cuda.is_bf16_supported() else "float32"


def default_horizon(preset: str, fps: float | None) -> int:
    """Steps of a chunk: about one second, at most what the preset was made for. Without a rate that
    of plain PyTorch policies, or of pi-0 for its presets."""
    defaults = training_defaults(preset)
    if fps is None:
        return PolicySettings.horizon if defaults is FROM_SCRATCH else defaults.longest_horizon
    return min(max(1, round(fps * SECONDS_AHEAD)), defaults.longest_horizon)


def default_action_steps(horizon: int) -> int:
    """How many steps of a chunk run before the next one: half."""
    return math.ceil(horizon / 2)


def default_image_size(preset: str, pictures: Iterable[tuple[int, ...]]) -> tuple[int, int] | None:
    """Height and width for cameras (channels, height, width): the preset's longer side in their own
    shape, so that no black bars are computed; the preset's where they differ in shape, or where its
    weights depend on it (None)."""
    sizes = find_preset(preset)
    if not isinstance(sizes.vision, KeypointShape):
        return None
    return fitted(pictures, max(sizes.image_size))


def fitted(
    pictures: Iterable[tuple[int, ...]], longer: int, multiple: int = 1
) -> tuple[int, int] | None:
    """Height and width in the shape of these pictures (channels, height, width), with about this
    longer side and both sides multiples of something; None where their shapes differ."""
    shapes = {(height, width) for _, height, width in pictures}
    if len({height / width for height, width in shapes}) != 1:
        return None
    height, width = shapes.pop()
    scale = longer / max(height, width) / multiple
    return (
        multiple * max(1, round(height * scale)),
        multiple * max(1, round(width * scale)),
    )
