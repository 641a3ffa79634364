"""Observation in, logits (or velocities) over the action chunk out.

`encode_prefix` runs once per observation; `denoise` runs at every denoising step and touches only
the action tokens, which attend to the prefix' keys and values of the same layer (pi-0, arXiv
2410.24164). Prefix tokens never look at action tokens, so the split is exact.

Shapes: B observations, R noise draws per observation, H steps of a chunk, D action dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from e0.network.language import ByteEmbedding
from e0.network.presets import Preset
from e0.network.transformer import (
    Block,
    ConditionedBlock,
    DecodingCache,
    KeyValue,
    KeyValueProjection,
    RMSNorm,
    rotation,
)
from e0.network.vision import KeypointTower, resize, sinusoidal


@dataclass(frozen=True)
class Observation:
    """One batch of observations.

    images: camera name -> (B, 3, height, width) float in [0, 1]; cameras may differ in size.
    vectors: feature name -> (B, n) float, normalized (proprioception, force, tactile, ...).
    instruction: byte indices (B, L) of `encode_instructions`, or None.
    """

    images: Mapping[str, Tensor]
    vectors: Mapping[str, Tensor]
    instruction: Tensor | None = None


class Prefix(NamedTuple):
    """An encoded observation: keys and values of every layer, and which tokens are real."""

    layers: list[KeyValue]
    mask: Tensor
    """(B, P), False for padding of short instructions."""


SUFFIX = ("time", "action_in", "step_identity", "suffix_blocks", "suffix_norm", "action_out")
"""Parts of the network that `encode_prefix` does not use."""


class PolicyNetwork(nn.Module):
    """The transformer of a policy. `input_width` numbers come in and `output_width` go out for
    every (step, dimension): the objective says how many and what they mean.

    With `causal` every (step, dimension) is a token of its own, which sees only those before it.
    """

    def __init__(
        self,
        preset: Preset,
        *,
        cameras: Sequence[str],
        vectors: Mapping[str, int],
        horizon: int,
        action_dim: int,
        input_width: int,
        output_width: int,
        causal: bool = False,
        use_instruction: bool = True,
    ) -> None:
        super().__init__()
        if not cameras and not vectors:
            raise ValueError("a policy needs at least one camera or one vector feature")
        self.preset = preset
        self.cameras = tuple(cameras)
        self.vectors = dict(vectors)
        self.causal, self.output_width = causal, output_width
        self.tokens = horizon * action_dim if causal else horizon
        self.token_dim = 1 if causal else action_dim
        width, action_width = preset.prefix.width, preset.suffix.width

        self.tower = (
            KeypointTower(width, preset.stem_channels, preset.keypoints, preset.image_tokens)
            if cameras
            else None
        )
        # None rather than empty: data-parallel training waits for the gradient of every parameter.
        self.camera_identity = (
            nn.Parameter(torch.randn(len(cameras), width) * 0.02) if cameras else None
        )
        self.language = ByteEmbedding(width, preset.instruction_patch) if use_instruction else None
        self.vector_projections = nn.ModuleDict(
            {_module_name(name): nn.Linear(size, width) for name, size in vectors.items()}
        )
        # The last layer gives only keys and values: nothing reads its output.
        self.prefix_blocks = nn.ModuleList(Block(preset.prefix) for _ in range(preset.depth - 1))
        self.prefix_norm = RMSNorm(width)
        self.prefix_key_value = KeyValueProjection(preset.prefix)

        self.time = nn.Sequential(
            nn.Linear(64, action_width), nn.SiLU(), nn.Linear(action_width, action_width), nn.SiLU()
        )
        self.action_in = (
            nn.Linear(self.token_dim * input_width, action_width) if input_width else None
        )
        self.step_identity = nn.Parameter(torch.randn(self.tokens, action_width) * 0.02)
        self.suffix_blocks = nn.ModuleList(
            ConditionedBlock(preset.suffix, action_width) for _ in range(preset.depth)
        )
        self.suffix_norm = RMSNorm(action_width)
        self.action_out = nn.Linear(action_width, self.token_dim * output_width)

    def prefix_parameters(self) -> dict[str, nn.Parameter]:
        """By name, all that `encode_prefix` depends on."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.split(".")[0] not in SUFFIX
        }

    def encode_prefix(self, observation: Observation) -> Prefix:
        """Encode an observation once; every denoising step and noise draw reuses the result.

        Raises ValueError if cameras or vector features are not the ones of this network, or have
        other shapes than `Observation` says.
        """
        tokens, mask = self._embed(observation)
        positions = mask.long().cumsum(-1) - 1
        table = rotation(positions, self.preset.prefix.head_width)
        attend = mask[:, None, None, :]
        layers = []
        for block in self.prefix_blocks:
            tokens, key_value = block(tokens, table, attend)
            layers.append(key_value)
        layers.append(self.prefix_key_value(self.prefix_norm(tokens), table))
        return Prefix(layers, mask)

    def denoise(
        self, prefix: Prefix, noisy: Tensor, time: Tensor, cache: DecodingCache | None = None
    ) -> Tensor:
        """`noisy` (B·R, H, D, input width), `time` (B·R,) in [0, 1] -> (B·R, H, D, output width);
        (H·D, 1) in place of (H, D) for a causal network.

        Row b·R + r belongs to observation b. The R draws of one observation are laid side by side
        as one sequence in which a draw sees the prefix and itself, so the prefix is never copied.
        With a `cache` (causal, R = 1) `noisy` holds only the tokens after those in the cache, which
        is extended in place.
        """
        batch = prefix.mask.shape[0]
        draws, count = noisy.shape[0] // batch, noisy.shape[1]
        start = cache.length if cache else 0
        x = self.step_identity[start : start + count].expand(noisy.shape[0], -1, -1)
        if self.action_in is not None:
            x = x + self.action_in(noisy.flatten(2))
        x = x.reshape(batch, draws * count, -1)
        condition = self.time(sinusoidal(time, 64, 4e-3, 4.0).to(x.dtype)).view(batch, draws, -1)
        places = torch.arange(start, start + count, device=x.device)
        positions = prefix.mask.sum(-1, keepdim=True) + places.repeat(draws)
        table = rotation(positions, self.preset.suffix.head_width)
        mask = _suffix_mask(prefix.mask, draws, start, count, self.causal)
        layers = cache.layers if cache and cache.layers else prefix.layers
        seen = []
        for block, key_value in zip(self.suffix_blocks, layers, strict=True):
            x, key_value = block(x, condition, table, key_value, mask)
            seen.append(key_value)
        if cache is not None:
            cache.layers, cache.length = seen, start + count
        out = self.action_out(self.suffix_norm(x))
        return out.view(batch * draws, count, self.token_dim, self.output_width)

    def compile_denoising(self) -> None:
        """Run `denoise` through torch.compile from now on; the first calls take a minute."""
        setattr(self, "denoise", torch.compile(self.denoise))  # noqa: B010

    def _embed(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """All prefix tokens (B, P, C) and their mask (B, P)."""
        _require_same("cameras", self.cameras, observation.images)
        _require_same("vector features", self.vectors, observation.vectors)
        _require_well_formed(observation, self.vectors)
        parts: list[Tensor] = []
        if self.tower is not None and self.camera_identity is not None:
            size = self.preset.image_size
            images = torch.stack([resize(observation.images[c], size) for c in self.cameras], dim=1)
            tokens = self.tower(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            parts.append((tokens + self.camera_identity[:, None]).flatten(1, 2))
        for name in self.vectors:
            projected = self.vector_projections[_module_name(name)](observation.vectors[name])
            parts.append(projected[:, None])
        tokens = torch.cat(parts, dim=1)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if self.language is not None:
            if observation.instruction is None:
                raise ValueError("this policy was built with instructions; the batch has none")
            words, real = self.language(observation.instruction)
            tokens, mask = torch.cat((tokens, words), dim=1), torch.cat((mask, real), dim=1)
        return tokens, mask


def _suffix_mask(prefix_mask: Tensor, draws: int, earlier: int, count: int, causal: bool) -> Tensor:
    """(B, 1, R·T, P + earlier + R·T): one of the T = `count` tokens of a draw sees the prefix' real
    tokens, all `earlier` ones of a cache and those of its own draw, if causal up to itself."""
    device = prefix_mask.device
    draw = torch.arange(draws, device=device).repeat_interleave(count)
    own = draw[:, None] == draw[None, :]
    if causal:
        place = torch.arange(count, device=device).repeat(draws)
        own = own & (place[None, :] <= place[:, None])
    if earlier:
        own = torch.cat((own.new_ones(len(own), earlier), own), dim=-1)
    seen = prefix_mask[:, None, :].expand(-1, draws * count, -1)
    return torch.cat((seen, own.expand(len(prefix_mask), -1, -1)), dim=-1)[:, None]


def _module_name(feature: str) -> str:
    """Module names may not hold dots: 'observation.state' -> 'observation_state'."""
    return feature.replace(".", "_")


def _require_same(what: str, expected: Sequence[str] | Mapping[str, int], got: Mapping) -> None:
    if set(expected) != set(got):
        raise ValueError(
            f"this policy expects the {what} {sorted(expected)}, the batch has {sorted(got)}; "
            "rename or add what differs"
        )


def _require_well_formed(observation: Observation, sizes: Mapping[str, int]) -> None:
    for name, image in observation.images.items():
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(
                f"image {name!r} must have shape (B, 3, height, width), got {tuple(image.shape)}"
            )
        if not image.is_floating_point():
            raise ValueError(
                f"image {name!r} must be float in [0, 1], got {image.dtype}: divide it by 255"
            )
    for name, size in sizes.items():
        shape = tuple(observation.vectors[name].shape)
        if len(shape) != 2 or shape[1] != size:
            raise ValueError(f"vector feature {name!r} must have shape (B, {size}), got {shape}")
