"""The same chunks sooner: whatever can be made ahead of sampling is made ahead.

`Policy.sample` is the readable reference; a test holds the two together. Made ahead are the tables
of the head and what `FastDenoiser` needs for the times of a policy's denoising steps.
"""

from __future__ import annotations

import copy
import functools
import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from e0.averaging import with_weights
from e0.finite import Drawn, accept, draw_chunk
from e0.network.action_tokens import ActionTokens
from e0.network.policy_network import SUFFIX, Observation, PolicyNetwork
from e0.network.transformer import (
    AdaptiveRMSNorm,
    Attention,
    Block,
    DecodingCache,
    GatedMLP,
    KeyValueProjection,
    RMSNorm,
)
from e0.objectives import ActionChunk, E0Objective, Objective, Sampling
from e0.objectives.diffusion import ALWAYS
from e0.policy import Policy
from e0.precision import in_dtype
from e0.prefix import Prefix
from e0.sampling.denoiser import FastDenoiser

logger = logging.getLogger(__name__)

PLAIN = {
    *(ActionTokens, AdaptiveRMSNorm, Attention, Block, GatedMLP, KeyValueProjection, RMSNorm),
    *(nn.Identity, nn.Linear, nn.ModuleList, nn.Sequential, nn.SiLU),
}
"""What the matrices that are taken out of the network may lie in: of anything else, such as LoRA's
layers, the weight alone is not what is computed."""


class FastSampler:
    """Samples chunks of a policy as its weights are now.

    steps: denoising steps, the policy's own if None. dtype: bfloat16 for half the memory traffic,
    the weights' own if None. reason: why the plain path is used instead, None if it is not.
    compiled: torch.compile the blocks; the first chunk then takes a minute.

    Raises ValueError for a dtype that the device does not have.
    """

    # Also where it is made under inference mode: its tensors must serve outside of it, too.
    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(
        self,
        policy: Policy,
        *,
        steps: int | None = None,
        dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        self.policy = policy
        self.steps = policy.settings.denoising_steps if steps is None else steps
        self.reason = unsupported(policy)
        self.objective, self.network, self.denoiser = policy.objective, policy.network, None
        if self.reason is not None:
            say_once(f"chunks are sampled the plain way: {self.reason}")
            return
        self.objective = prepared(policy.objective)
        self.network = in_dtype(policy.network, dtype)
        times = time_grid(self.objective, policy, self.steps)
        self.denoiser = FastDenoiser(policy.network, self.network, times, compiled)
        if compiled:
            self.network = with_compiled_blocks(self.network)

    def decoding(self, objective: Objective) -> FastSampler:
        """The same sampler with another objective for the same network and times."""
        twin = copy.copy(self)
        twin.objective = prepared(objective)
        return twin

    @torch.no_grad()
    def sample(
        self,
        observation: Observation,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        prefix: Prefix | None = None,
    ) -> ActionChunk:
        """One chunk for each observation, see `Policy.sample`."""
        if self.denoiser is None:
            return self.policy.sample(
                observation, steps=self.steps, generator=generator, noise=noise, prefix=prefix
            )
        prefix = self.policy.checked(prefix, observation.batch)
        drawn = self.draw(observation, generator=generator, noise=noise, prefix=prefix)
        return accept(drawn, observation, noise, self.policy)

    @torch.no_grad()
    def draw(
        self,
        observation: Observation,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        prefix: Prefix | None = None,
    ) -> Drawn:
        """What `sample` looks at before it gives a chunk, of a prefix that was checked; for a
        policy without a `reason`."""
        assert self.denoiser is not None
        # The dtype is this sampler's own; autocast would also keep copies of weights in a graph.
        with torch.autocast(self.denoiser.times.device.type, enabled=False):
            encoded = self.network.encode_prefix(observation)
            return draw_chunk(
                self.objective,
                self.denoiser.bind(encoded),
                observation,
                len(encoded.mask),
                self.policy.settings.horizon,
                Sampling(
                    self.steps, generator, noise, prefix=prefix, own_time=self.policy.given_clean
                ),
            )


@functools.cache
def say_once(message: str) -> None:
    """Into the log, the first time: samplers are made anew whenever weights change."""
    logger.info(message)


def unsupported(policy: Policy) -> str | None:
    """Why a policy's denoising cannot be made ahead, None if it can."""
    if policy.objective.causal:
        return "autoregressive decoding has one time and a cache of its own"
    if getattr(policy.objective, "early_stop", False):
        return "early_stop decides from the tokens how many steps are taken"
    for part in SUFFIX:
        found = getattr(policy.network, part)
        wrapped = isinstance(found, nn.Module) and any(
            type(m) not in PLAIN for m in found.modules()
        )
        if wrapped:
            return f"{part} holds layers that are not plain, such as adapters: merge them first"
    return None


def with_compiled_blocks(network: PolicyNetwork) -> PolicyNetwork:
    """A twin that shares all weights. Blocks of one kind are compiled once for all of them."""
    twin = with_weights(network, {})
    tower = getattr(twin.tower, "blocks", [])
    for block in (*twin.prefix_blocks, *tower):
        block.compile()
    return twin


def prepared(objective: Any) -> Objective:
    """The objective with the tables of its head made."""
    if not hasattr(objective, "head"):
        return objective
    return replace(objective, head=objective.head.prepared())


def time_grid(objective: Objective, policy: Policy, steps: int) -> Tensor:
    """The times (K,) at which a chunk's evaluations happen, as the objective asks for them; of
    adaptive decoding where there are several ways."""
    if isinstance(objective, E0Objective):
        objective = replace(objective, ambiguous=ALWAYS)
    times: list[Tensor] = []

    def listen(noisy: Tensor, time: Tensor, cache: DecodingCache | None = None) -> Tensor:
        times.append(time[0])
        return noisy.new_zeros(*noisy.shape[:3], objective.output_width)

    # Its own random numbers: making a sampler must not change what is drawn after it.
    own = torch.Generator(policy.tokenizer.codebook.device)
    objective.sample(listen, 1, policy.settings.horizon, Sampling(steps, own))
    return torch.stack(times)
