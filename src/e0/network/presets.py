"""Sizes of the network. One implementation; a preset is a row of numbers."""

from __future__ import annotations

from dataclasses import dataclass

from e0.network.transformer import BlockShape


@dataclass(frozen=True)
class Preset:
    """Sizes of the prefix stream (observation), the suffix stream (actions) and the tower."""

    prefix: BlockShape
    suffix: BlockShape
    depth: int
    image_size: int
    stem_channels: tuple[int, ...]
    keypoints: int
    image_tokens: int
    instruction_patch: int

    def __post_init__(self) -> None:
        for name in ("heads", "key_value_heads", "head_width"):
            if getattr(self.prefix, name) != getattr(self.suffix, name):
                raise ValueError(f"prefix and suffix attend to each other, so {name} must be equal")


PRESETS: dict[str, Preset] = {
    # About 1.7 M parameters: trains from scratch in minutes on two CPU cores.
    "tiny": Preset(
        prefix=BlockShape(width=128, hidden=256, heads=4, key_value_heads=2, head_width=32),
        suffix=BlockShape(width=128, hidden=256, heads=4, key_value_heads=2, head_width=32),
        depth=3,
        image_size=128,
        stem_channels=(16, 32, 32),
        keypoints=16,
        image_tokens=4,
        instruction_patch=8,
    ),
    # About 50 M parameters: several tasks and cameras from scratch on one GPU.
    "small": Preset(
        prefix=BlockShape(width=384, hidden=1536, heads=8, key_value_heads=4, head_width=64),
        suffix=BlockShape(width=384, hidden=1024, heads=8, key_value_heads=4, head_width=64),
        depth=8,
        image_size=128,
        stem_channels=(32, 64, 128),
        keypoints=64,
        image_tokens=8,
        instruction_patch=4,
    ),
}


def find_preset(name: str) -> Preset:
    """The preset called `name`; ValueError lists the known ones."""
    if name not in PRESETS:
        raise ValueError(f"unknown network preset {name!r}; known: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
