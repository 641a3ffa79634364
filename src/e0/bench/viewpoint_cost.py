"""What a viewpoint perturbation costs, beside the perspective warps of kornia and torchvision."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from e0.viewpoint import PerturbationRange, Plane, intrinsics, perturb_viewpoint

COUNT, SIZE = 64, 224


def measure_cost(device: torch.device, repetitions: int) -> list[dict[str, Any]]:
    """Milliseconds for 64 pictures of 224² px, each with a movement of its own: the median of runs
    that are taken in turn, and the ratio to ours."""
    methods = _methods(device)
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for run in range(repetitions + 2):
        for name, method in methods.items():
            _wait(device)
            start = time.perf_counter()
            method()
            _wait(device)
            if run >= 2:
                taken[name].append(1000 * (time.perf_counter() - start))
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


def _methods(device: torch.device) -> dict[str, Callable[[], object]]:
    from kornia.geometry.transform import warp_perspective
    from torchvision.transforms import RandomPerspective
    from torchvision.transforms.functional import perspective

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(COUNT, 3, SIZE, SIZE, generator=generator).to(device)
    depth = (0.5 + torch.rand(COUNT, SIZE, SIZE, generator=generator)).to(device)
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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
