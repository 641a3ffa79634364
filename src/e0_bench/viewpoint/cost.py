"""What a viewpoint perturbation costs, beside the perspective warps of kornia and torchvision, and
beside a training step."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor

from e0 import Observation, Policy, PolicySettings
from e0.network.language import encode_instructions
from e0.network.presets import ByteShape
from e0.viewpoint import (
    CameraGeometry,
    PerturbationRange,
    Plane,
    ViewpointAugmentation,
    intrinsics,
    perturb_viewpoint,
)

COUNT, SIZE, TRAINING_SIZE = 64, 224, 128


def measure_cost(device: torch.device, repetitions: int) -> list[dict[str, Any]]:
    """Milliseconds for 64 pictures of 224² px, each with a movement of its own: the median of runs
    that are taken in turn, and the ratio to ours."""
    methods = _methods(device)
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for run in range(repetitions + 2):
        for name, method in methods.items():
            start = _now(device)
            method()
            if run >= 2:
                taken[name].append(1000 * (_now(device) - start))
    ours = median(taken["table plane"])
    return [
        {
            "method": name,
            "milliseconds": round(median(times), 3),
            "ratio_to_table_plane": round(median(times) / ours, 2),
            "runs": len(times),
        }
        for name, times in taken.items()
    ]


def measure_training(device: torch.device, repetitions: int) -> dict[str, Any]:
    """Milliseconds of a training step of the `tiny` policy (64 samples of one camera with 128² px,
    otherwise as by default), and of augmenting its pictures with probability 0.8 in each way, with
    the augmentation's share of both: medians of runs in turn."""
    step = _training_step(device)
    pictures = {"front": torch.rand(COUNT, 3, TRAINING_SIZE, TRAINING_SIZE, device=device)}
    depths = {"front": _table_depth(TRAINING_SIZE, device)}
    geometry = CameraGeometry(40.0, 40.0, 0.6, table_offset=-0.05)
    plain, light = (
        ViewpointAugmentation(probability=0.8, cameras={"front": geometry}, light=strength)
        for strength in (0.0, 0.4)
    )
    ways = {
        "table plane": lambda: plain(pictures),
        "table plane, light": lambda: light(pictures),
        "depth": lambda: plain(pictures, depths),
        "depth, light": lambda: light(pictures, depths),
    }
    taken: dict[str, list[float]] = {name: [] for name in (*ways, "step")}
    moved = pictures
    for run in range(repetitions + 2):
        times = [_now(device)]
        for way in ways.values():
            moved, _ = way()
            times.append(_now(device))
        step(moved)
        times.append(_now(device))
        if run >= 2:
            for name, (start, end) in zip(taken, pairwise(times), strict=True):
                taken[name].append(1000 * (end - start))
    whole = median(taken.pop("step"))
    return {
        "step_ms": round(whole, 2),
        "augmentations": [
            {
                "augmentation": name,
                "milliseconds": round(median(times), 2),
                "share": round(median(times) / (median(times) + whole), 4),
            }
            for name, times in taken.items()
        ],
        "runs": repetitions,
    }


def _training_step(device: torch.device) -> Callable[[dict[str, Tensor]], None]:
    """One step of training with these pictures, all else being the same in each."""
    settings = PolicySettings(("front",), {"state": 4}, action_dim=7)
    policy = Policy(settings).to(device)
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    actions = torch.rand(COUNT, settings.horizon, 7) * 2 - 1
    policy.tokenizer.fit(actions.flatten(0, 1))
    state = {"state": torch.randn(COUNT, 4, device=device)}
    language = policy.network.preset.language
    assert isinstance(language, ByteShape)
    words = encode_instructions(["push the cube"] * COUNT, 256, language.patch).to(device)
    actions, valid = actions.to(device), torch.ones(COUNT, settings.horizon, device=device).bool()

    def step(pictures: dict[str, Tensor]) -> None:
        policy.loss(Observation(pictures, state, words), actions, valid).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _table_depth(size: int, device: torch.device) -> Tensor:
    """Metres (COUNT, size, size) to a table that the camera looks at from above: near at the lower
    edge, far at the upper one."""
    rows = 1 / torch.linspace(1 / 0.9, 1 / 0.45, size, device=device)
    return rows[:, None].expand(COUNT, size, size).contiguous()


def _methods(device: torch.device) -> dict[str, Callable[[], object]]:
    from kornia.geometry.transform import warp_perspective
    from torchvision.transforms import RandomPerspective
    from torchvision.transforms.functional import perspective

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(COUNT, 3, SIZE, SIZE, generator=generator).to(device)
    depth = _table_depth(SIZE, device)
    moves = PerturbationRange().draw(COUNT, generator)
    lens = intrinsics(45, SIZE, SIZE).to(device)
    matrices = torch.eye(3, device=device).expand(COUNT, 3, 3) + 1e-4 * torch.rand(
        COUNT, 3, 3, generator=generator
    ).to(device)
    corners = [RandomPerspective.get_params(SIZE, SIZE, 0.2) for _ in range(COUNT)]

    def ours(depth: Tensor | None) -> object:
        return perturb_viewpoint(images, lens, moves, depth, 0.7, elevation=40.0, plane=Plane())

    return {
        "table plane": lambda: ours(None),
        "depth": lambda: ours(depth),
        "kornia warp_perspective": lambda: warp_perspective(
            images, matrices, (SIZE, SIZE), padding_mode="reflection"
        ),
        "torchvision perspective, one by one": lambda: [
            perspective(image, start, end)
            for image, (start, end) in zip(images, corners, strict=True)
        ],
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
