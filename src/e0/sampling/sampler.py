"""The same chunks sooner: whatever can be made ahead of sampling is made ahead.

`Policy.sample` is the readable reference; a test holds the two together. What is made ahead for the
K times of a policy's denoising: the time's features and every norm's scale, shift and gate, which
depend on nothing else; queries, keys and values in one projection; the tables of the head. In a
chunk, rotary tables and masks are made once, and the action tokens' keys and values overwrite their
place behind the prefix' ones, which are never copied again.

Shapes: B observations, P prefix tokens, T action tokens, C width, N heads, G key/value heads,
E head width, K denoising steps, L layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e0.finite import Drawn, accept, draw_chunk
from e0.network.action_tokens import ActionTokens
from e0.network.policy_network import (
    SUFFIX,
    Observation,
    PolicyNetwork,
    Prefix,
    action_mask,
    time_features,
)
from e0.network.transformer import (
    AdaptiveRMSNorm,
    Attention,
    Block,
    DecodingCache,
    GatedMLP,
    KeyValueProjection,
    RMSNorm,
    rotation,
)
from e0.objectives import ActionChunk, Objective, Sampling
from e0.policy import Policy

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
    compile_steps: torch.compile the denoising step; the first chunk then takes minutes.

    Raises ValueError for a dtype that the device does not have.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        steps: int | None = None,
        dtype: torch.dtype | None = None,
        compile_steps: bool = False,
    ) -> None:
        self.policy = policy
        self.steps = policy.settings.denoising_steps if steps is None else steps
        self.reason = unsupported(policy)
        self.objective, self.network, self.denoiser = policy.objective, policy.network, None
        if self.reason is not None:
            return
        self.objective = prepared(policy.objective)
        self.network = _in_dtype(policy.network, dtype)
        times = time_grid(self.objective, policy, self.steps)
        self.denoiser = FastDenoiser(policy.network, times, self.network.dtype, compile_steps)

    @torch.no_grad()
    def sample(
        self,
        observation: Observation,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> ActionChunk:
        """One chunk for each observation, see `Policy.sample`."""
        if self.denoiser is None:
            return self.policy.sample(
                observation, steps=self.steps, generator=generator, noise=noise
            )
        drawn = self.draw(observation, generator=generator, noise=noise)
        return accept(drawn, observation, noise, self.policy)

    @torch.no_grad()
    def draw(
        self,
        observation: Observation,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Drawn:
        """What `sample` looks at before it gives a chunk; for a policy without a `reason`."""
        assert self.denoiser is not None
        # The dtype is this sampler's own; autocast would also keep copies of weights in a graph.
        with torch.autocast(self.denoiser.times.device.type, enabled=False):
            prefix = self.network.encode_prefix(observation)
            return draw_chunk(
                self.objective,
                self.denoiser.bind(prefix),
                observation,
                len(prefix.mask),
                self.policy.settings.horizon,
                Sampling(self.steps, generator, noise),
            )


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


def prepared(objective: Any) -> Objective:
    """The objective with the tables of its head made."""
    if not hasattr(objective, "head"):
        return objective
    return replace(objective, head=objective.head.prepared())


def time_grid(objective: Objective, policy: Policy, steps: int) -> Tensor:
    """The times (K,) at which a chunk's evaluations happen, as the objective asks for them."""
    times: list[Tensor] = []

    def listen(noisy: Tensor, time: Tensor, cache: DecodingCache | None = None) -> Tensor:
        times.append(time[0])
        return noisy.new_zeros(*noisy.shape[:3], objective.output_width)

    # Its own random numbers: making a sampler must not change what is drawn after it.
    own = torch.Generator(policy.tokenizer.codebook.device)
    objective.sample(listen, 1, policy.settings.horizon, Sampling(steps, own))
    return torch.stack(times)


class FastDenoiser:
    """`PolicyNetwork.denoise` for one grid of times (K,), which it must be called at in order."""

    def __init__(
        self,
        network: PolicyNetwork,
        times: Tensor,
        dtype: torch.dtype,
        compile_steps: bool = False,
    ) -> None:
        self.preset, self.layout, self.times = network.preset, network.layout, times
        tokens, condition = _time_tables(network, times)
        self.time_mix = None if tokens is None else tokens.to(dtype)
        blocks = [cast(Block, block) for block in network.suffix_blocks]
        with torch.no_grad():
            self.modulation = torch.stack(
                [
                    _modulation(norm, condition, len(times))
                    for block in blocks
                    for norm in (block.attention_norm, block.mlp_norm)
                ],
                dim=1,
            )  # (K, 2 L, 3, C)
            self.last = _modulation(network.suffix_norm, condition, len(times))  # (K, 3, C)
        self.epsilon = network.suffix_norm.epsilon
        self.blocks = [_weights(block, dtype) for block in blocks]
        self.action_tokens = _in_dtype(network.action_tokens, dtype)
        self.time: nn.Sequential = _in_dtype(network.time, dtype)
        identity = network.step_identity
        self.identity = None if identity is None else identity.detach().to(dtype)
        self.dtype = dtype
        self.run: Callable[..., Tensor] = self._run
        if compile_steps:
            self.run = torch.compile(self._run, fullgraph=True, dynamic=False)

    def bind(self, prefix: Prefix) -> Callable[..., Tensor]:
        """A `denoise` for one encoded observation, to be called once for every time."""
        shape = self.preset.suffix
        count, place = self.layout.count, torch.arange(self.layout.count, device=self.times.device)
        positions = prefix.mask.sum(-1, keepdim=True) + place
        table = rotation(positions, shape.head_width)
        cosine, sine = table.cosine.to(self.dtype), table.sine.to(self.dtype)
        visible = action_mask(prefix.mask, 1, 0, self.layout.order(place.device))
        visible = visible.repeat(1, 1, shape.heads // shape.key_value_heads, 1)
        # Added to the scores, as kernels want it; bools they would convert at every step.
        mask = torch.zeros(visible.shape, dtype=self.dtype, device=visible.device)
        mask.masked_fill_(~visible, -torch.inf)
        room = (len(prefix.mask), shape.key_value_heads, count, shape.head_width)
        caches = []
        for layer in prefix.layers:
            own = layer.keys.new_empty(room)
            caches.append(
                (torch.cat((layer.keys, own), dim=2), torch.cat((layer.values, own), dim=2))
            )
        step = 0

        def denoise(noisy: Tensor, time: Tensor, cache: DecodingCache | None = None) -> Tensor:
            nonlocal step
            self._require_time(step, time)
            x = self._embed(noisy.to(self.dtype), step)
            x = self.run(x, self.modulation[step], self.last[step], caches, mask, cosine, sine)
            step += 1
            return self.action_tokens.read_out(x, noisy.shape[1:3])

        return denoise

    def _require_time(self, step: int, time: Tensor) -> None:
        """Refuse a call that nothing was made ahead for. On a GPU only their number is checked:
        reading a value would wait for the device."""
        if step >= len(self.times):
            raise ValueError(f"made for {len(self.times)} evaluations, this is one more")
        if time.device.type == "cpu" and (time[0] - self.times[step]).abs() > 1e-5:
            raise ValueError(
                f"evaluation {step} was made for the time {self.times[step]:.4f}, not {time[0]:.4f}"
            )

    def _embed(self, noisy: Tensor, step: int) -> Tensor:
        """Action tokens (B, T, C)."""
        x = self.action_tokens.embed(noisy)
        if self.identity is not None:
            x = x + self.identity
        if self.time_mix is None:
            return x
        first = cast(nn.Linear, self.time[0])
        mixed = F.linear(x, first.weight[:, : x.shape[-1]]) + self.time_mix[step]
        return self.time[1:](mixed)

    def _run(
        self,
        x: Tensor,
        modulation: Tensor,
        last: Tensor,
        caches: list[tuple[Tensor, Tensor]],
        mask: Tensor,
        cosine: Tensor,
        sine: Tensor,
    ) -> Tensor:
        """All blocks and the last norm, for the modulation (2 L, 3, C) of one time."""
        for index, (weights, (keys, values)) in enumerate(zip(self.blocks, caches, strict=True)):
            scale, shift, gate = modulation[2 * index]
            normed = self._norm(x, scale, shift)
            attended = self._attend(normed, weights, keys, values, mask, cosine, sine)
            x = torch.addcmul(x, gate.to(x.dtype), F.linear(attended, weights["output"]))
            scale, shift, gate = modulation[2 * index + 1]
            up = F.linear(self._norm(x, scale, shift), weights["gate_up"])
            opened, passed = up.chunk(2, dim=-1)
            hidden = F.gelu(opened, approximate="tanh") * passed
            x = torch.addcmul(x, gate.to(x.dtype), F.linear(hidden, weights["down"]))
        return self._norm(x, last[0], last[1])

    def _norm(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """RMS norm with scale and shift (C,), in float32."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return torch.addcmul(shift, normed, scale).to(x.dtype)

    def _attend(
        self,
        x: Tensor,
        weights: dict[str, Tensor],
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
        cosine: Tensor,
        sine: Tensor,
    ) -> Tensor:
        """Attention of `x` (B, T, C) to the prefix and itself -> (B, T, N · E)."""
        batch, count, _ = x.shape
        shape = self.preset.suffix
        heads, groups, width = shape.heads, shape.key_value_heads, shape.head_width
        every = F.linear(x, weights["query_key_value"]).view(batch, count, -1, width)
        every = every.transpose(1, 2)  # (B, N + 2 G, T, E)
        first, second = every[:, : heads + groups].chunk(2, dim=-1)
        turned = torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
        keys[:, :, -count:] = turned[:, heads:]
        values[:, :, -count:] = every[:, heads + groups :]
        # The heads that share keys become more queries of one head, which every kernel can do.
        query = turned[:, :heads].reshape(batch, groups, -1, width)
        attended = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return attended.view(batch, heads, count, width).transpose(1, 2).flatten(2)


def _time_tables(network: PolicyNetwork, times: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What the time adds to every action token, or the condition of adaptive norms, (K, C)."""
    with torch.no_grad():
        features = time_features(times, network.preset.time_width)
        first = cast(nn.Linear, network.time[0])
        features = features.to(first.weight.dtype)
        if network.preset.time == "adaptive":
            return None, network.time(features)
        return F.linear(features, first.weight[:, -features.shape[-1] :], first.bias), None


def _modulation(norm: RMSNorm | AdaptiveRMSNorm, condition: Tensor | None, steps: int) -> Tensor:
    """Scale, shift and residual gate of a norm at every time: (K, 3, C) in float32."""
    if isinstance(norm, AdaptiveRMSNorm):
        assert condition is not None
        scale, shift, gate = norm.modulation(condition).float().chunk(3, dim=-1)
        return torch.stack((1.0 + scale, shift, gate), dim=1)
    scale = (1.0 + norm.weight.float()).expand(steps, -1)
    return torch.stack((scale, torch.zeros_like(scale), torch.ones_like(scale)), dim=1)


def _weights(block: Block, dtype: torch.dtype) -> dict[str, Tensor]:
    """A block's matrices; queries, keys and values in one."""
    attention, mlp = block.attention, block.mlp
    fused = torch.cat((attention.query.weight, attention.key_value.projection.weight))
    matrices = {
        "query_key_value": fused,
        "output": attention.output.weight,
        "gate_up": mlp.gate_up.weight,
        "down": mlp.down.weight,
    }
    return {name: matrix.detach().to(dtype) for name, matrix in matrices.items()}


def _in_dtype[Module: nn.Module](module: Module, dtype: torch.dtype | None) -> Module:
    """The module itself, or a copy in another dtype whose norms keep float32.

    Raises ValueError if the device cannot compute with it.
    """
    parameter = next(module.parameters())
    if dtype is None or dtype == parameter.dtype:
        return module
    require_dtype(dtype, parameter.device)
    converted = copy.deepcopy(module).to(dtype)
    for part in converted.modules():
        if isinstance(part, RMSNorm):
            part.float()
    return converted


def require_dtype(dtype: torch.dtype, device: torch.device) -> None:
    """Raise ValueError if the device cannot compute in bfloat16."""
    if dtype is not torch.bfloat16:
        return
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"{name} has no bfloat16 (compute capability 8.0 does); use float32")
    if device.type == "mps":
        raise ValueError("bfloat16 is not used on Apple's devices here; use float32")
