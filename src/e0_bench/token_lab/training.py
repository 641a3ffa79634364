"""Training a policy on the token lab's problem."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from e0.network.policy_network import Observation
from e0.policy import Policy
from e0.reflow import make_teacher, reflow_loss
from e0_bench.token_lab.settings import LabSettings, Run

WARM_UP_STEPS = 100
TICK = 20  # training steps between two signs of progress

Progress = Callable[[int], object]


def train(policy: Policy, run: Run, settings: LabSettings, progress: Progress) -> dict[str, Any]:
    """All training steps of a run, those of reflow among them, so that budgets are equal."""
    problem, batch = settings.problem, settings.batch_size
    generator = seeded(run.seed, "training")
    valid = torch.ones(batch, problem.horizon, dtype=torch.bool)

    def loss_of_data() -> Tensor:
        contexts = problem.sample_contexts(batch, generator)
        return policy.loss(observe(contexts), problem.sample(contexts, generator), valid)

    start = time.perf_counter()
    own_pairs = round(run.reflow * settings.train_steps)
    steps = settings.train_steps - own_pairs
    loss = _optimize(policy, loss_of_data, steps, settings.learning_rate, progress)
    if own_pairs:
        teacher = make_teacher(policy)

        def loss_of_pairs() -> Tensor:
            contexts = problem.sample_contexts(batch, generator)
            return reflow_loss(policy, teacher, observe(contexts))

        loss = _optimize(policy, loss_of_pairs, own_pairs, settings.learning_rate / 2, progress)
    return {
        "train_steps": settings.train_steps,
        "steps_per_second": settings.train_steps / (time.perf_counter() - start),
        "loss": loss,
    }


def _optimize(
    policy: Policy,
    losses_of_batch: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    progress: Progress,
) -> float:
    """AdamW with warm-up and cosine decay; returns the mean loss of the last 100 steps. Raises
    RuntimeError if a gradient is not finite."""
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min(1.0, (i + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * i / steps)),
    )
    losses = []
    for step in range(1, steps + 1):
        loss = losses_of_batch().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % TICK == 0 or step == steps:
            progress((step - 1) % TICK + 1)
    last = losses[-100:]
    return sum(last) / len(last)


def observe(contexts: Tensor) -> Observation:
    """Contexts (B, C) as what a policy observes."""
    return Observation(images={}, vectors={"context": contexts})


def seeded(seed: int, purpose: str) -> torch.Generator:
    """Independent random numbers for every purpose."""
    offset = {"training": 1, "sampling": 2, "tokenizer": 3}[purpose]
    return torch.Generator().manual_seed(1_000_003 * offset + seed)
