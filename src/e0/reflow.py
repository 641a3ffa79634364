"""Fewer denoising steps from the same network: train it again on its own noise-to-chunk pairs.

Trained on independent noise, one chunk fits many noises, so at t = 1 the posterior is a mixture of
modes and several steps have to choose among them. A deterministic sampler has made that choice for
every noise. Trained on these pairs (noise, chunk it led to), the network knows the chunk from the
noise at once: the paths become straight. This is the reflow of Rectified Flow (Liu et al., arXiv
2209.03003), here with cross-entropy for a discrete diffusion; the loss itself does not change, only
half of its times are 1, where a single step has to do it all.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from e0.network.policy_network import Observation
from e0.policy import Policy

REFLOWED = ("e0", "flow")


def make_teacher(policy: Policy) -> Policy:
    """A frozen copy of a trained policy.

    Raises ValueError for a policy whose samples are no function of their noise.
    """
    settings = policy.settings
    if settings.objective not in REFLOWED:
        raise ValueError(
            f"reflow needs the objective {' or '.join(REFLOWED)}, which turn noise into a chunk; "
            f"this policy has {settings.objective!r}"
        )
    if settings.objective == "e0" and settings.sampler != "ddim":
        raise ValueError(
            f"reflow needs the deterministic sampler 'ddim', this policy has {settings.sampler!r}"
        )
    if settings.objective == "e0" and settings.decoding != "fixed":
        raise ValueError(
            f"reflow needs the decoding 'fixed', this policy has {settings.decoding!r}, which "
            "chooses among several draws"
        )
    return copy.deepcopy(policy).eval().requires_grad_(False)


def reflow_loss(
    policy: Policy,
    teacher: Policy,
    observation: Observation,
    *,
    steps: int = 10,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Loss of each observation (B,): `policy` learns which chunk `teacher` makes of which noise,
    in `steps` denoising steps. No demonstrated actions are needed."""
    settings, codebook = policy.settings, policy.tokenizer.codebook
    shape = (observation.batch, settings.horizon, settings.action_dim, policy.objective.input_width)
    noise = torch.randn(shape, device=codebook.device, generator=generator)
    actions = teacher.sample(observation, steps=steps, noise=noise).actions
    valid = torch.ones(shape[:2], dtype=torch.bool, device=codebook.device)
    return policy.loss(observation, actions, valid, noise)
