"""`PolicyNetwork.denoise` sooner, for times that are known before.

What is made ahead for K times: their features and every norm's scale, shift and gate, which depend
on nothing else; queries, keys and values in one projection. All this is made for the time 0 of
given steps, too, and then picked for each token by what it is told, so that a CUDA graph does not
depend on how many steps are given. In a chunk, rotary tables and masks are made once, and the
action tokens' keys and values overwrite their place behind the prefix' ones, which are never copied
again. Between blocks the action tokens keep float32 whatever the weights' dtype: that is more exact
and saves conversions.

Shapes: B observations, P prefix tokens, T action tokens of all draws of one, C width, N heads, G
key/value heads, E head width, K denoising steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e0.network.policy_network import EncodedObservation, PolicyNetwork, action_mask, time_features
from e0.network.transformer import (
    AdaptiveRMSNorm,
    Block,
    DecodingCache,
    RMSNorm,
    attend,
    grouped,
    rotation,
)


class Modulation(NamedTuple):
    """What a norm does at one time, each (C,) in float32, or to every token, (B, T, C): its scale
    and shift, and the gate of the residual behind it; None where it has none."""

    scale: Tensor
    shift: Tensor | None
    gate: Tensor | None


class Room(NamedTuple):
    """Where the action tokens of some draws meet an encoded observation: of every layer the keys
    and values of the prefix with room behind them, the mask, and the rotary positions."""

    caches: list[tuple[Tensor, Tensor]]
    mask: Tensor
    turns: tuple[Tensor, Tensor]


class FastDenoiser:
    """`PolicyNetwork.denoise` for one grid of times (K,), which it must be called at in order;
    called with times of every step (B·R, H), those of given steps are 0.

    converted: the network itself, or its copy in the dtype to compute in; what is made ahead is
    made from the first."""

    def __init__(
        self,
        network: PolicyNetwork,
        converted: PolicyNetwork,
        times: Tensor,
        compiled: bool = False,
    ) -> None:
        dtype = converted.dtype
        self.preset, self.layout, self.times = network.preset, network.layout, times
        tokens, condition = _time_tables(network, torch.cat((times, times.new_zeros(1))))
        self.time_mix = None if tokens is None else tokens.to(dtype)
        blocks = [cast(Block, block) for block in network.suffix_blocks]
        norms = [norm for block in blocks for norm in (block.attention_norm, block.mlp_norm)]
        norms.append(network.suffix_norm)
        self.table = _modulation_table(norms, condition)
        self.plain = [_plain_modulation(norm) for norm in norms if isinstance(norm, RMSNorm)]
        self.modulation = [self._modulation(now) for now in range(len(times))]
        self.epsilon = network.suffix_norm.epsilon
        self.blocks = [_weights(cast(Block, block)) for block in converted.suffix_blocks]
        self.action_tokens = converted.action_tokens
        self.time = converted.time
        identity = network.step_identity
        self.identity = None if identity is None else identity.detach().float()
        self.dtype = dtype
        self._compiled = torch.compile(self._block) if compiled else None

    def bind(self, prefix: EncodedObservation) -> Callable[..., Tensor]:
        """A `denoise` for one encoded observation, to be called at the times in their order, for
        any number of draws of each observation; the times may be left before their end."""
        rooms: dict[int, Room] = {}
        step, block = 0, self._compiled or self._block

        def denoise(noisy: Tensor, time: Tensor, _: DecodingCache | None = None) -> Tensor:
            nonlocal step
            self._require_time(step, time)
            draws = len(noisy) // len(prefix.mask)
            if draws not in rooms:
                rooms[draws] = self._make_room(prefix, draws)
            room = rooms[draws]
            given = self.layout.of_tokens(time) == 0 if time.ndim == 2 else None
            x = self._embed(noisy, step, given).view(len(prefix.mask), -1, self.action_tokens.width)
            norms = self.modulation[step]
            if given is not None:
                norms = self._modulation(step, given.view(x.shape[:2]))
            for index, (weights, cache) in enumerate(zip(self.blocks, room.caches, strict=True)):
                at_attention, at_mlp = norms[2 * index : 2 * index + 2]
                x = block(x, weights, at_attention, at_mlp, cache, room.mask, room.turns)
            x = self._norm(x, norms[-1])
            step += 1
            return self.action_tokens.read_out(
                x.view(len(noisy), -1, x.shape[-1]), noisy.shape[1:3]
            )

        return denoise

    def _make_room(self, prefix: EncodedObservation, draws: int) -> Room:
        """What all evaluations of so many draws share."""
        shape, batch = self.preset.suffix, len(prefix.mask)
        count, place = self.layout.count, torch.arange(self.layout.count, device=self.times.device)
        positions = prefix.mask.sum(-1, keepdim=True) + place.repeat(draws)
        cosine, sine = rotation(positions, shape.head_width, dtype=self.dtype)
        turns = torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)
        visible = action_mask(prefix.mask, draws, 0, self.layout.order(place.device))
        mask = aligned_mask(grouped(visible, shape), self.dtype)
        own = (batch, shape.key_value_heads, draws * count, shape.head_width)
        caches = []
        for keys, values in prefix.layers:
            free = keys.new_empty(own)
            caches.append((torch.cat((keys, free), dim=2), torch.cat((values, free), dim=2)))
        return Room(caches, mask, turns)

    def _require_time(self, step: int, time: Tensor) -> None:
        """Refuse a call that nothing was made ahead for. On a GPU only their number is checked:
        reading a value would wait for the device."""
        if step >= len(self.times):
            raise ValueError(f"made for {len(self.times)} evaluations, this is one more")
        if time.device.type != "cpu":
            return
        wrong = (time - self.times[step]).abs() > 1e-5
        if time.ndim == 2:
            wrong &= time != 0
        if wrong.any():
            raise ValueError(
                f"evaluation {step} was made for the time {self.times[step]:.4f}, not "
                f"{time[wrong][0]:.4f}"
            )

    def _modulation(self, step: int, given: Tensor | None = None) -> list[Modulation]:
        """What the norms do at an evaluation, in the order in which they come; to every token
        where some are given, (B, T) bool."""
        if self.table is None:
            return self.plain
        now = self.table[step]
        if given is not None:
            clean, now = (each[:, :, None, None] for each in (self.table[-1], now))
            now = torch.where(given[..., None], clean, now)
        return [Modulation(*norm.unbind()) for norm in now.unbind()] + self.plain

    def _embed(self, noisy: Tensor, step: int, given: Tensor | None) -> Tensor:
        """Action tokens (B, T, C) in float32; given: (B, T) bool, if any are."""
        x = self.action_tokens.embed(noisy)
        if self.identity is not None:
            x = x + self.identity
        if self.time_mix is None:
            return x
        first = cast(nn.Linear, self.time[0])
        x, now = x.to(self.dtype), self.time_mix[step]
        if given is not None:
            now = torch.where(given[..., None], self.time_mix[-1], now)
        mixed = F.linear(x, first.weight[:, : x.shape[-1]]) + now
        return self.time[1:](mixed).float()

    def _block(
        self,
        x: Tensor,
        weights: dict[str, Tensor],
        at_attention: Modulation,
        at_mlp: Modulation,
        cache: tuple[Tensor, Tensor],
        mask: Tensor,
        turns: tuple[Tensor, Tensor],
    ) -> Tensor:
        """One block: `x` (B, T, C) attends to the prefix and itself, whose keys and values go into
        the cache, each (B, G, P + T, E)."""
        normed = self._norm(x, at_attention).to(self.dtype)
        attended = self._attend(normed, weights, *cache, mask, turns)
        x = _add(x, F.linear(attended, weights["output"]), at_attention.gate)
        normed = self._norm(x, at_mlp).to(self.dtype)
        opened, passed = F.linear(normed, weights["gate_up"]).chunk(2, dim=-1)
        hidden = F.gelu(opened, approximate="tanh") * passed
        return _add(x, F.linear(hidden, weights["down"]), at_mlp.gate)

    def _norm(self, x: Tensor, modulation: Modulation) -> Tensor:
        scale, shift = modulation.scale, modulation.shift
        if scale.ndim > 1 and shift is not None:  # of every token
            return torch.addcmul(shift, F.rms_norm(x, x.shape[-1:], None, self.epsilon), scale)
        normed = F.rms_norm(x, x.shape[-1:], scale, self.epsilon)
        return normed if shift is None else normed + shift

    def _attend(
        self,
        x: Tensor,
        weights: dict[str, Tensor],
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
        turns: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Attention of `x` (B, T, C) to the prefix and itself -> (B, T, N · E)."""
        batch, count, _ = x.shape
        heads, groups = self.preset.suffix.heads, self.preset.suffix.key_value_heads
        width = self.preset.suffix.head_width
        every = F.linear(x, weights["query_key_value"]).view(batch, count, -1, width)
        every = every.transpose(1, 2)  # (B, N + 2 G, T, E)
        turned, (cosine, sine) = every[:, : heads + groups], turns
        # Rotary positions: the halves swapped and one of them negated, times the sine.
        turned = torch.addcmul(turned * cosine, turned.roll(width // 2, dims=-1), sine)
        keys[:, :, -count:] = turned[:, heads:]
        values[:, :, -count:] = every[:, heads + groups :]
        attended = attend(turned[:, :heads], keys, values, mask)
        return attended.transpose(1, 2).flatten(2)


def aligned_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of bools (..., keys) as it is added to the scores, 0 or -inf, its rows a multiple of
    eight apart. Others, and bools, kernels would convert anew in every layer of every step."""
    keys = visible.shape[-1]
    room = visible.new_zeros(*visible.shape[:-1], -(-keys // 8) * 8, dtype=dtype)
    return room[..., :keys].masked_fill_(~visible, -torch.inf)


def _add(x: Tensor, branch: Tensor, gate: Tensor | None) -> Tensor:
    """The residual."""
    return x + branch if gate is None else torch.addcmul(x, gate, branch)


def _time_tables(network: PolicyNetwork, times: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What the time adds to every action token, or the condition of adaptive norms, (K, C)."""
    with torch.no_grad():
        features = time_features(times, network.preset.time_width)
        first = cast(nn.Linear, network.time[0])
        features = features.to(first.weight.dtype)
        if network.preset.time == "adaptive":
            return None, network.time(features)
        return F.linear(features, first.weight[:, -features.shape[-1] :], first.bias), None


def _modulation_table(
    norms: list[RMSNorm | AdaptiveRMSNorm], condition: Tensor | None
) -> Tensor | None:
    """Scale, shift and gate of the adaptive norms at every time, (K, norms, 3, C); None if there
    are no such norms."""
    rows = []
    for norm in norms:
        if isinstance(norm, AdaptiveRMSNorm):
            assert condition is not None
            scale, shift, gate = norm.modulation(condition).float().chunk(3, dim=-1)
            rows.append(torch.stack((1.0 + scale, shift, gate), dim=1))
    return torch.stack(rows, dim=1) if rows else None


def _plain_modulation(norm: RMSNorm) -> Modulation:
    """A norm's that is the same at every time. They come after the adaptive ones."""
    return Modulation(1.0 + norm.weight.float(), None, None)


def _weights(block: Block) -> dict[str, Tensor]:
    """A block's matrices; queries, keys and values in one, which alone is a copy."""
    attention, mlp = block.attention, block.mlp
    fused = torch.cat((attention.query.weight, attention.key_value.projection.weight))
    matrices = {
        "query_key_value": fused,
        "output": attention.output.weight,
        "gate_up": mlp.gate_up.weight,
        "down": mlp.down.weight,
    }
    return {name: matrix.detach() for name, matrix in matrices.items()}
