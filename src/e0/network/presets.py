"""Sizes of the network. One implementation; a preset is a row of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from e0.network.siglip import SiglipShape
from e0.network.transformer import BlockShape
from e0.network.vision import KeypointShape

Layout = Literal["pi0", "pi05"]


@dataclass(frozen=True)
class ByteShape:
    """Instructions as bytes, `patch` of them in one token."""

    patch: int


@dataclass(frozen=True)
class WordShape:
    """Instructions as tokens of a text tokenizer with this many entries."""

    vocabulary: int


@dataclass(frozen=True)
class Preset:
    """Sizes of the prefix stream (observation) and the suffix stream (actions), and how the parts
    of an observation and the time enter them.

    image_size: height and width in pixels that every picture is brought to.
    state: vector features become tokens of the prefix, tokens of the suffix that are computed once
        (pi-0), or words of the prompt (pi-0.5).
    time: `adaptive` norms follow it (pi-0.5), or it is `mixed` into every action token (pi-0).
    time_width: sine and cosine features of the time.
    identities: learned offsets tell cameras and steps apart; otherwise only their order does.
    adaptive_output: the last norm follows the time too.
    """

    prefix: BlockShape
    suffix: BlockShape
    depth: int
    image_size: tuple[int, int]
    vision: KeypointShape | SiglipShape
    language: ByteShape | WordShape
    state: Literal["prefix", "suffix", "prompt"] = "prefix"
    time: Literal["adaptive", "mixed"] = "adaptive"
    time_width: int = 64
    identities: bool = True
    adaptive_output: bool = False

    def __post_init__(self) -> None:
        for name in ("heads", "key_value_heads", "head_width"):
            if getattr(self.prefix, name) != getattr(self.suffix, name):
                raise ValueError(f"prefix and suffix attend to each other, so {name} must be equal")
        if self.adaptive_output and self.time != "adaptive":
            raise ValueError(
                "adaptive_output needs time='adaptive': nothing else gives a condition"
            )


def paligemma(
    layout: Layout,
    vision: SiglipShape,
    prefix: BlockShape,
    suffix: BlockShape,
    depth: int,
    vocabulary: int,
) -> Preset:
    """PaliGemma with an action expert, as pi-0 (arXiv 2410.24164) or pi-0.5 (arXiv 2504.16054)
    lay it out."""
    adaptive = layout == "pi05"
    return Preset(
        prefix=prefix,
        suffix=suffix,
        depth=depth,
        image_size=(224, 224),
        vision=vision,
        language=WordShape(vocabulary),
        state="prompt" if adaptive else "suffix",
        time="adaptive" if adaptive else "mixed",
        time_width=suffix.width,
        identities=False,
        adaptive_output=adaptive,
    )


def full_size(layout: Layout) -> Preset:
    """SigLIP So400m/14, Gemma 2B and an expert of 300 M: 3.2 B parameters."""
    return paligemma(
        layout,
        vision=SiglipShape(width=1152, depth=27, hidden=4304, heads=16, patch=14),
        prefix=BlockShape(width=2048, hidden=16384, heads=8, key_value_heads=1, head_width=256),
        suffix=BlockShape(width=1024, hidden=4096, heads=8, key_value_heads=1, head_width=256),
        depth=18,
        vocabulary=257152,
    )


def debug_size(layout: Layout) -> Preset:
    """The same parts at a size for tests and dry runs."""
    return paligemma(
        layout,
        vision=SiglipShape(width=32, depth=2, hidden=64, heads=2, patch=56),
        prefix=BlockShape(width=64, hidden=128, heads=8, key_value_heads=1, head_width=16),
        suffix=BlockShape(width=32, hidden=64, heads=8, key_value_heads=1, head_width=16),
        depth=3,
        vocabulary=1024,
    )


PRESETS: dict[str, Preset] = {
    # About 1.7 M parameters: trains from scratch in minutes on two CPU cores.
    "tiny": Preset(
        prefix=BlockShape(width=128, hidden=256, heads=4, key_value_heads=2, head_width=32),
        suffix=BlockShape(width=128, hidden=256, heads=4, key_value_heads=2, head_width=32),
        depth=3,
        image_size=(128, 128),
        vision=KeypointShape(channels=(16, 32, 32), keypoints=16, tokens=4),
        language=ByteShape(patch=8),
    ),
    # About 50 M parameters: several tasks and cameras from scratch on one GPU.
    "small": Preset(
        prefix=BlockShape(width=384, hidden=1536, heads=8, key_value_heads=4, head_width=64),
        suffix=BlockShape(width=384, hidden=1024, heads=8, key_value_heads=4, head_width=64),
        depth=8,
        image_size=(128, 128),
        vision=KeypointShape(channels=(32, 64, 128), keypoints=64, tokens=8),
        language=ByteShape(patch=4),
    ),
    "paligemma": full_size("pi05"),
    "paligemma_pi0": full_size("pi0"),
    "paligemma_debug": debug_size("pi05"),
    "paligemma_pi0_debug": debug_size("pi0"),
}


def find_preset(preset: str | Preset) -> Preset:
    """The preset called so, or the one given; ValueError lists the known ones."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown network preset {preset!r}; known: {', '.join(sorted(PRESETS))}")
    return PRESETS[preset]
