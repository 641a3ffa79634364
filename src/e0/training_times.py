"""Times to train at: from 0 (clean) to 1 (noise), neither of which is ever drawn."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from e0.known import require_known

TIME_DISTRIBUTIONS = ("beta", "uniform", "beta_ends", "shifted", "logit_normal", "low_noise")
MIN_TIME, MAX_TIME = 0.001, 0.999
SHIFT = 4.0
LOW_MEAN, LOW_DEVIATION = -1.0, 1.5


def sample_time(
    batch: int,
    kind: str = "beta",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Training times (batch,) in [0.001, 0.999]; nothing waits for the device.

    beta: Beta(1.5, 1), which favours noise (π0, arXiv 2410.24164), by its inverse distribution
        function u^(1/1.5).
    uniform: uniform.
    beta_ends: Beta(.2, .2), which favours both ends (Dense-Jump, arXiv 2509.13574): a third of the
        times lies above .9, a fifth above .99.
    shifted: 4u / (1 + 3u), a uniform time shifted towards noise (arXiv 2606.05737).
    logit_normal: the sigmoid of a normal number, which favours the middle (SD3, arXiv 2403.03206).
    low_noise: the same of a normal number of mean -1 and deviation 1.5, which favours little noise,
        where the variety within a way shows (ours, see docs/evidence.md).

    Raises ValueError for another kind.
    """
    require_known("time distribution", kind, TIME_DISTRIBUTIONS)
    if kind in ("logit_normal", "low_noise"):
        normal = torch.randn(batch, generator=generator, device=device)
        time = (normal if kind == "logit_normal" else LOW_MEAN + LOW_DEVIATION * normal).sigmoid()
    else:
        time = torch.rand(batch, generator=generator, device=device)
    if kind == "beta":
        time = time.pow(1 / 1.5)
    elif kind == "beta_ends":
        angle = 2 * math.pi * torch.rand(batch, generator=generator, device=device)
        time = _symmetric_beta(0.2, 1 - time, angle)
    elif kind == "shifted":
        time = SHIFT * time / (1 + (SHIFT - 1) * time)
    return MIN_TIME + (MAX_TIME - MIN_TIME) * time


def _symmetric_beta(shape: float, uniform: Tensor, angle: Tensor) -> Tensor:
    """Beta(a, a) numbers from uniform ones in (0, 1] and angles in [0, 2π).

    √(u^(-1/a) - 1) cos(angle) is √(2a) times smaller than a number of Student's t with 2a degrees
    of freedom (Bailey, Mathematics of Computation 62, 1994), and y / √(1 + y²) of it, which is
    sin(arctan y), is 2 Beta(a, a) - 1. Exact, and without the loop of a rejection.
    """
    y = (uniform.pow(-1 / shape) - 1).sqrt() * angle.cos()
    return 0.5 + 0.5 * y.arctan().sin()
