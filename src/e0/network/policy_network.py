"""Observation in, logits (or velocities) over the action chunk out.

`encode_prefix` runs once per observation; `denoise` runs at every denoising step and touches only
the action tokens, which attend to the prefix' keys and values of the same layer (pi-0, arXiv
2410.24164). Prefix tokens never look at action tokens, so the split is exact.

Shapes: B observations, R noise draws per observation, H steps of a chunk, D action dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from e0.network.action_tokens import ActionTokens, TokenLayout
from e0.network.language import ByteEmbedding, WordEmbedding
from e0.network.observation import Observation, require_same, require_well_formed
from e0.network.presets import ByteShape, Preset
from e0.network.siglip import SiglipTower
from e0.network.transformer import (
    Block,
    DecodingCache,
    KeyValue,
    KeyValueProjection,
    RMSNorm,
    Rotation,
    apply_norm,
    grouped,
    make_norm,
    rotation,
)
from e0.network.vision import KeypointShape, KeypointTower, resize, sinusoidal


class EncodedObservation(NamedTuple):
    """An encoded observation: keys and values of every layer, and which tokens are real."""

    layers: list[KeyValue]
    mask: Tensor
    """(B, P), False for padding of short instructions and for missing images."""


SUFFIX = ("time", "action_tokens", "step_identity", "suffix_blocks", "suffix_norm")
"""Parts of the network that only `denoise` uses, unless state tokens go through `suffix_blocks`."""


class PolicyNetwork(nn.Module):
    """The transformer of a policy; `layout` says what comes in and goes out for every action token.

    tower: looks at pictures in place of the preset's: (N, 3, height, width) in [0, 1] -> tokens
    (N, P, width of the prefix). A part of it called `pretrained` is what `freeze` freezes.

    Raises ValueError without anything to observe, for a tower without cameras, and for vector
    features where the preset puts the state into the prompt.
    """

    def __init__(
        self,
        preset: Preset,
        layout: TokenLayout,
        *,
        cameras: Sequence[str],
        vectors: Mapping[str, int],
        use_instruction: bool = True,
        tower: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not cameras and not vectors:
            raise ValueError("a policy needs at least one camera or one vector feature")
        if tower is not None and not cameras:
            raise ValueError("a vision tower was given, and there is no camera to look through")
        if vectors and preset.state == "prompt":
            raise ValueError(
                f"this preset reads the state from the prompt, so it takes no vector features; got "
                f"{sorted(vectors)}"
            )
        self.preset, self.layout = preset, layout
        self.cameras, self.vectors = tuple(cameras), dict(vectors)
        self.checkpointing, self._range_is_known = False, False
        self._compiled: Callable[..., Tensor] | None = None
        width, action_width = preset.prefix.width, preset.suffix.width
        adaptive = preset.time == "adaptive"
        state_width = action_width if preset.state == "suffix" else width

        self.tower = _make_tower(preset) if cameras and tower is None else tower
        # None rather than empty: data-parallel training waits for the gradient of every parameter.
        self.camera_identity = (
            nn.Parameter(torch.randn(len(cameras), width) * 0.02)
            if cameras and preset.identities
            else None
        )
        self.language = _make_language(preset) if use_instruction else None
        self._vector_names = module_names(vectors)
        self.vector_projections = nn.ModuleDict(
            {
                self._vector_names[name]: nn.Linear(size, state_width)
                for name, size in vectors.items()
            }
        )
        # The last layer gives only keys and values: nothing reads its output.
        self.prefix_blocks = nn.ModuleList(Block(preset.prefix) for _ in range(preset.depth - 1))
        self.prefix_norm = RMSNorm(width)
        self.prefix_key_value = KeyValueProjection(preset.prefix)

        time_width = preset.time_width if adaptive else preset.time_width + action_width
        self.time = nn.Sequential(
            nn.Linear(time_width, action_width),
            nn.SiLU(),
            nn.Linear(action_width, action_width),
            nn.SiLU() if adaptive else nn.Identity(),
        )
        self.action_tokens = ActionTokens(layout, action_width)
        self.step_identity = (
            nn.Parameter(torch.randn(layout.count, action_width) * 0.02)
            if preset.identities
            else None
        )
        condition_width = action_width if adaptive else None
        self.suffix_blocks = nn.ModuleList(
            Block(preset.suffix, condition_width) for _ in range(preset.depth)
        )
        self.suffix_norm = make_norm(
            action_width, condition_width if preset.adaptive_output else None
        )

    def prefix_parameters(self) -> dict[str, nn.Parameter]:
        """By name, all that `encode_prefix` depends on."""
        others = set(SUFFIX)
        if self.preset.state == "suffix" and self.vectors:
            others.remove("suffix_blocks")
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.split(".")[0] not in others
        }

    def freeze(self, *, vision: bool = False, language: bool = False) -> None:
        """Train no more: the vision tower, or its `pretrained` part if it has one; the words and
        the blocks of the prefix."""
        tower = getattr(self.tower, "pretrained", self.tower)
        frozen: list[nn.Module | None] = [tower] if vision else []
        if language:
            frozen += [self.language, self.prefix_blocks, self.prefix_norm, self.prefix_key_value]
        for part in frozen:
            if part is not None:
                part.requires_grad_(False)

    def encode_prefix(self, observation: Observation) -> EncodedObservation:
        """Encode an observation once; every denoising step and noise draw reuses the result.

        Raises ValueError if cameras or vector features are not the ones of this network, or have
        other shapes than `Observation` says.
        """
        tokens, mask = self._embed(observation)
        table = self._rotation(mask.long().cumsum(-1) - 1)
        attend = mask[:, None, None, :]
        layers = []
        for block in self.prefix_blocks:
            tokens, key_value = self._run(block, tokens, table, attend)
            layers.append(key_value)
        layers.append(self.prefix_key_value(self.prefix_norm(tokens), table))
        prefix = EncodedObservation(layers, mask)
        if self.preset.state == "suffix" and self.vectors:
            return self._append_state(prefix, observation)
        return prefix

    def denoise(
        self,
        prefix: EncodedObservation,
        noisy: Tensor,
        time: Tensor,
        cache: DecodingCache | None = None,
    ) -> Tensor:
        """`noisy` (B·R, H, D, input width), `time` in [0, 1], (B·R,) or of every step (B·R, H), to
        (B·R, H, D, output width); (H·D, 1) in place of (H, D) for a causal network.

        Row b·R + r belongs to observation b. The R draws of one observation are laid side by side
        as one sequence in which a draw sees the prefix and itself, so the prefix is never copied.
        With a `cache` (causal, R = 1) `noisy` holds only the tokens after those in the cache, which
        is extended in place.
        """
        run = self._compiled or PolicyNetwork._denoise
        return run(self, prefix, noisy, time, cache)

    def _denoise(
        self, prefix: EncodedObservation, noisy: Tensor, time: Tensor, cache: DecodingCache | None
    ) -> Tensor:
        batch, rows = prefix.mask.shape[0], noisy.shape[0]
        draws, start = rows // batch, cache.length if cache else 0
        x = self.action_tokens.embed(noisy).to(self.dtype)
        count = x.shape[1]
        if self.step_identity is not None:
            x = x + self.step_identity[start : start + count]
        x, condition = self._add_time(x, time)
        x = x.reshape(batch, draws * count, -1)
        if condition is not None:
            condition = condition.view(batch, -1, condition.shape[-1])
        places = torch.arange(start, start + count, device=x.device)
        positions = prefix.mask.sum(-1, keepdim=True) + places.repeat(draws)
        table = self._rotation(positions)
        order = self.layout.order(x.device)[start : start + count]
        mask = grouped(action_mask(prefix.mask, draws, start, order), self.preset.suffix)
        layers = cache.layers if cache and cache.layers else prefix.layers
        seen = []
        for block, context in zip(self.suffix_blocks, layers, strict=True):
            x, key_value = self._run(block, x, table, mask, context, condition)
            seen.append(key_value)
        if cache is not None:
            cache.layers, cache.length = seen, start + count
        x, _ = apply_norm(self.suffix_norm, x, condition)
        return self.action_tokens.read_out(x.view(rows, count, -1), noisy.shape[1:3])

    def compile_denoising(self) -> None:
        """Run `denoise` through torch.compile from now on; the first calls take a minute."""
        # The function, not the method: bound to this network, a copy of it would compute with
        # this one's weights.
        self._compiled = torch.compile(PolicyNetwork._denoise)

    def __getstate__(self) -> dict[str, Any]:
        """All but what was compiled, which cannot be pickled: whether it was is enough."""
        return self.__dict__ | {"_compiled": self._compiled is not None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state | {"_compiled": None})
        if state["_compiled"]:
            self.compile_denoising()

    @property
    def dtype(self) -> torch.dtype:
        """Of the large weights, and so of the tokens; norms may keep float32."""
        return self.prefix_key_value.projection.weight.dtype

    def _rotation(self, positions: Tensor) -> Rotation:
        """Rotary tables in the tokens' dtype: converted once, not in every layer."""
        return rotation(positions, self.preset.prefix.head_width, dtype=self.dtype)

    def _run(self, block: nn.Module, *inputs: Any) -> Any:
        """A block; with `checkpointing` its insides are computed again in the backward pass."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def _add_time(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor | None]:
        """Action tokens (rows, T, C) that know the time, (rows,) or (rows, H), or a condition of
        every row or token, (rows, C) or (rows, T, C)."""
        if time.ndim == 2:
            time = self.layout.of_tokens(time)
        features = time_features(time, self.preset.time_width).to(x.dtype)
        if self.preset.time == "adaptive":
            return x, self.time(features)
        if time.ndim == 1:
            features = features[:, None].expand(-1, x.shape[1], -1)
        return self.time(torch.cat((x, features), dim=-1)), None

    def _append_state(
        self, prefix: EncodedObservation, observation: Observation
    ) -> EncodedObservation:
        """Vector features as tokens of the suffix stream, which see the prefix and each other. They
        do not depend on the time, so their keys and values can be computed with the prefix."""
        x = self._embed_vectors(observation)
        state = prefix.mask.new_ones(x.shape[:2])
        places = torch.arange(x.shape[1], device=x.device)
        table = self._rotation(prefix.mask.sum(-1, keepdim=True) + places)
        mask = torch.cat((prefix.mask, state), dim=-1)
        layers = []
        for block, context in zip(self.suffix_blocks, prefix.layers, strict=True):
            x, key_value = self._run(block, x, table, mask[:, None, None, :], context)
            layers.append(key_value)
        return EncodedObservation(layers, mask)

    def _embed(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """All prefix tokens (B, P, C) and their mask (B, P)."""
        require_same("cameras", self.cameras, observation.images)
        require_same("vector features", self.vectors, observation.vectors)
        require_well_formed(observation, self.vectors)
        parts: list[tuple[Tensor, Tensor]] = []
        if self.tower is not None:
            parts.append(self._embed_images(observation))
        if self.preset.state == "prefix" and self.vectors:
            tokens = self._embed_vectors(observation)
            parts.append((tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool)))
        if self.language is not None:
            if observation.instruction is None:
                raise ValueError("this policy was built with instructions; the batch has none")
            parts.append(self.language(observation.instruction))
        return (
            torch.cat([tokens for tokens, _ in parts], dim=1),
            torch.cat([mask for _, mask in parts], dim=1),
        )

    def _require_range(self, images: Tensor) -> None:
        """Refuse pictures (B, cameras, 3, size, size) outside [0, 1]. Reading a value waits for the
        device, so on others than the CPU only the first batch is looked at."""
        if images.device.type != "cpu" and self._range_is_known:
            return
        for index, name in enumerate(self.cameras):
            low, high = (bound.item() for bound in torch.aminmax(images[:, index].detach()))
            if not -0.05 <= low <= high <= 1.05:
                raise ValueError(
                    f"image {name!r} must lie in [0, 1], got values from {low:.3g} to {high:.3g}: "
                    "divide bytes by 255; ranges of other models must be undone"
                )
        self._range_is_known = True

    def _embed_images(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """Tokens of all cameras in one call of the tower, and their mask."""
        assert self.tower is not None
        size, antialias = self.preset.image_size, not isinstance(self.tower, SiglipTower)
        images = torch.stack(
            [resize(observation.images[c], size, antialias) for c in self.cameras], dim=1
        )
        self._require_range(images)
        flat = images.flatten(0, 1).to(self.dtype)
        if isinstance(self.tower, SiglipTower):
            x = self.tower.embed(flat)
            for block in self.tower.blocks:
                x = self._run(block, x)
            tokens = self.tower.read_out(x)
        else:
            tokens = self._run(self.tower, flat)
        width = self.preset.prefix.width
        if tokens.ndim != 3 or tokens.shape[-1] != width:
            raise ValueError(
                f"the vision tower must give tokens (N, P, {width}), got {tuple(tokens.shape)}"
            )
        tokens = tokens.unflatten(0, images.shape[:2])
        if self.camera_identity is not None:
            tokens = tokens + self.camera_identity[:, None]
        mask = tokens.new_ones(tokens.shape[:3], dtype=torch.bool)
        for name, present in (observation.present or {}).items():
            mask[:, self.cameras.index(name)] = present[:, None]
        return tokens.flatten(1, 2), mask.flatten(1)

    def _embed_vectors(self, observation: Observation) -> Tensor:
        """One token for every vector feature: (B, features, C)."""
        return torch.stack(
            [
                self.vector_projections[own](observation.vectors[name].to(self.dtype))
                for name, own in self._vector_names.items()
            ],
            dim=1,
        )


def time_features(time: Tensor, width: int) -> Tensor:
    """Sine and cosine features (..., width) of times in [0, 1], with pi-0's periods.

    In float64: an angle of 250 turns would be off by 1e-4 in float32.
    """
    precise = time if time.device.type == "mps" else time.double()
    return sinusoidal(precise, width, 4e-3, 4.0).float()


def _make_tower(preset: Preset) -> KeypointTower | SiglipTower:
    if isinstance(preset.vision, KeypointShape):
        return KeypointTower(preset.vision, preset.prefix.width)
    return SiglipTower(preset.vision, preset.image_size, preset.prefix.width)


def _make_language(preset: Preset) -> ByteEmbedding | WordEmbedding:
    if isinstance(preset.language, ByteShape):
        return ByteEmbedding(preset.prefix.width, preset.language.patch)
    return WordEmbedding(preset.prefix.width, preset.language.vocabulary)


def action_mask(prefix_mask: Tensor, draws: int, earlier: int, order: Tensor) -> Tensor:
    """(B, 1, R·T, P + earlier + R·T): a token of a draw sees the prefix' real tokens, all `earlier`
    ones of a cache, and those of its own draw whose place in the `order` (T,) is not after its
    own."""
    count = len(order)
    draw = torch.arange(draws, device=order.device).repeat_interleave(count)
    place = order.repeat(draws)
    own = (draw[:, None] == draw[None, :]) & (place[None, :] <= place[:, None])
    if earlier:
        own = torch.cat((own.new_ones(len(own), earlier), own), dim=-1)
    seen = prefix_mask[:, None, :].expand(-1, draws * count, -1)
    return torch.cat((seen, own.expand(len(prefix_mask), -1, -1)), dim=-1)[:, None]


def module_names(features: Iterable[str]) -> dict[str, str]:
    """A module's name for each feature, no two the same: names of modules hold no dots.

    'observation.state' is 'observation_state'. Where that would make two features one ('a.b' and
    'a_b'), or is the name of a method ('keys'), all get longer ones: 'vector_a_db', 'vector_a__b'.
    """
    names = {feature: feature.replace(".", "_") for feature in features}
    taken = [name for name in names.values() if not name or hasattr(nn.ModuleDict, name)]
    if not taken and len(set(names.values())) == len(names):
        return names
    return {name: "vector_" + name.replace("_", "__").replace(".", "_d") for name in names}
