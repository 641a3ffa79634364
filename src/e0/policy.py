"""The E0 policy in plain PyTorch: tokenizer, network and objective put together.

policy = Policy(PolicySettings(cameras=("front",), vectors={"state": 4}, action_dim=7))
policy.tokenizer.fit(actions)                       # (N, 7), in action units
policy.loss(observation, chunks, valid).mean().backward()
chunk = policy.sample(observation)                  # chunk.actions (B, H, 7), chunk.entropy
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from e0.network.policy_network import Observation, PolicyNetwork
from e0.network.presets import find_preset
from e0.objectives import ActionChunk, E0Objective, Objective
from e0.tokens import ActionTokenizer


@dataclass(frozen=True)
class PolicySettings:
    """Everything that a policy's weights depend on, and its sampling defaults.

    cameras: names of the images; vectors: name and size of the normalized vector features.
    """

    cameras: tuple[str, ...]
    vectors: Mapping[str, int]
    action_dim: int
    horizon: int = 8
    preset: str = "tiny"
    use_instruction: bool = True
    vocabulary_size: int = 256
    head: str = "cosine"
    mean_weight: float = 1.0
    embedding: str = "ordinal"
    schedule: str = "linear"
    time_distribution: str = "beta"
    sampler: str = "ddim"
    read_out: str = "argmax"
    early_stop: bool = False
    denoising_steps: int = 4
    noise_draws: int = 4
    objective: str = "e0"

    def __post_init__(self) -> None:
        for name in ("action_dim", "horizon", "denoising_steps", "noise_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def make_objective(settings: PolicySettings, tokenizer: ActionTokenizer) -> Objective:
    """The objective named in the settings; ValueError lists the known ones."""
    if settings.objective != "e0":
        raise ValueError(f"unknown objective {settings.objective!r}; known: e0")
    return E0Objective(
        tokenizer,
        head=settings.head,
        mean_weight=settings.mean_weight,
        embedding_name=settings.embedding,
        schedule_name=settings.schedule,
        time_distribution=settings.time_distribution,
        sampler=settings.sampler,
        read_out=settings.read_out,
        early_stop=settings.early_stop,
    )


class Policy(nn.Module):
    """Observations -> action chunks. The tokenizer's codebooks are saved with the weights."""

    def __init__(self, settings: PolicySettings) -> None:
        super().__init__()
        self.settings = settings
        self.tokenizer = ActionTokenizer(settings.action_dim, settings.vocabulary_size)
        self.objective = make_objective(settings, self.tokenizer)
        self.network = PolicyNetwork(
            find_preset(settings.preset),
            cameras=settings.cameras,
            vectors=settings.vectors,
            horizon=settings.horizon,
            action_dim=settings.action_dim,
            input_width=self.objective.input_width,
            output_width=self.objective.output_width,
            use_instruction=settings.use_instruction,
        )

    def loss(self, observation: Observation, actions: Tensor, valid: Tensor) -> Tensor:
        """Loss of each observation (B,).

        actions: (B, H, D) in action units; valid: (B, H) bool, False where a step is padding.
        Raises ValueError for a chunk of another shape.
        """
        expected = (self.settings.horizon, self.settings.action_dim)
        if actions.shape[1:] != expected or valid.shape != actions.shape[:2]:
            raise ValueError(
                f"expected actions (B, {expected[0]}, {expected[1]}) and valid (B, {expected[0]}), "
                f"got {tuple(actions.shape)} and {tuple(valid.shape)}"
            )
        prefix = self.network.encode_prefix(observation)
        denoise = partial(self.network.denoise, prefix)
        return self.objective.loss(denoise, actions, valid, self.settings.noise_draws)

    @torch.no_grad()
    def sample(
        self,
        observation: Observation,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        keep_trace: bool = False,
    ) -> ActionChunk:
        """Draw one chunk for each observation, with `steps` network evaluations (default: the
        settings' denoising_steps)."""
        prefix = self.network.encode_prefix(observation)
        return self.objective.sample(
            partial(self.network.denoise, prefix),
            len(prefix.mask),
            self.settings.horizon,
            steps=self.settings.denoising_steps if steps is None else steps,
            generator=generator,
            noise=noise,
            keep_trace=keep_trace,
        )
