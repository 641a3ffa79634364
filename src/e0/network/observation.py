"""What a policy observes, and what is refused of it.

B observations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Observation:
    """One batch of observations.

    images: camera name -> (B, 3, height, width) float in [0, 1]; cameras may differ in size.
    vectors: feature name -> (B, n) float, normalized (proprioception, force, tactile, ...).
    instruction: indices (B, L) of `encode_instructions` or of `e0.prompts.TextTokenizer`, or None.
    present: camera name -> (B,) bool, False where an observation lacks that image, which then
        nothing looks at; a camera that is not named is always there.
    """

    images: Mapping[str, Tensor]
    vectors: Mapping[str, Tensor]
    instruction: Tensor | None = None
    present: Mapping[str, Tensor] | None = None

    @property
    def batch(self) -> int:
        """How many observations there are."""
        return len(next(iter(self.tensors().values())))

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by a name that is theirs alone."""
        named = {f"image {name}": image for name, image in self.images.items()}
        named |= {f"vector {name}": vector for name, vector in self.vectors.items()}
        named |= {f"present {name}": there for name, there in (self.present or {}).items()}
        if self.instruction is not None:
            named["instruction"] = self.instruction
        return named


def require_same(what: str, expected: Sequence[str] | Mapping[str, int], got: Mapping) -> None:
    if set(expected) != set(got):
        raise ValueError(
            f"this policy expects the {what} {sorted(expected)}, the batch has {sorted(got)}; "
            "rename or add what differs"
        )


def require_well_formed(observation: Observation, sizes: Mapping[str, int]) -> None:
    for name, image in observation.images.items():
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(
                f"image {name!r} must have shape (B, 3, height, width), got {tuple(image.shape)}"
            )
        if not image.is_floating_point():
            raise ValueError(
                f"image {name!r} must be float in [0, 1], got {image.dtype}: divide it by 255"
            )
    unknown = set(observation.present or {}) - set(observation.images)
    if unknown:
        raise ValueError(
            f"`present` names the cameras {sorted(unknown)}, the images are of "
            f"{sorted(observation.images)}"
        )
    for name, size in sizes.items():
        shape = tuple(observation.vectors[name].shape)
        if len(shape) != 2 or shape[1] != size:
            raise ValueError(f"vector feature {name!r} must have shape (B, {size}), got {shape}")
