"""Instructions as UTF-8 bytes (no vocabulary file, any language, nothing to download), or as the
tokens of a text tokenizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PADDING = 256
"""Byte values are 0..255; this index fills up short instructions."""


def encode_instructions(instructions: list[str], maximum_bytes: int, patch: int) -> Tensor:
    """Instructions -> byte indices (B, L), padded with `PADDING` to a multiple of `patch`.

    Raises ValueError if an instruction is longer than `maximum_bytes`: a cut instruction would be
    another instruction.
    """
    encoded = [text.encode("utf-8") for text in instructions]
    for text, data in zip(instructions, encoded, strict=True):
        if len(data) > maximum_bytes:
            raise ValueError(
                f"instruction {text[:40]!r}... has {len(data)} bytes, {len(data) - maximum_bytes} "
                f"more than this policy's maximum of {maximum_bytes}; shorten it or train with a "
                "larger maximum_instruction_bytes"
            )
    longest = max((len(data) for data in encoded), default=0)
    length = max(patch, -(-longest // patch) * patch)
    padded = [list(data) + [PADDING] * (length - len(data)) for data in encoded]
    return torch.tensor(padded, dtype=torch.long)


class ByteEmbedding(nn.Module):
    """Byte indices -> one token for every `patch` bytes. `padding` fills up short instructions."""

    padding = PADDING

    def __init__(self, width: int, patch: int, byte_width: int = 32) -> None:
        super().__init__()
        self.patch = patch
        self.bytes = nn.Embedding(PADDING + 1, byte_width)
        self.projection = nn.Linear(patch * byte_width, width)

    def forward(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """`indices` (B, L) -> tokens (B, L / patch, C), mask (B, L / patch) True where real."""
        batch, length = indices.shape
        tokens = self.projection(self.bytes(indices).view(batch, length // self.patch, -1))
        return tokens, (indices != PADDING).view(batch, -1, self.patch).any(-1)


NO_WORD = -1
"""Fills up short prompts among tokens of a text tokenizer, which are 0, 1, ..."""


class WordEmbedding(nn.Module):
    """Tokens of a text tokenizer -> one vector each, times the root of the width, as in Gemma.
    `padding` fills up short prompts."""

    patch, padding = 1, NO_WORD

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.scale = width**0.5

    def forward(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """`indices` (B, L), `NO_WORD` where there is none -> tokens (B, L, C), mask (B, L)."""
        return self.words(indices.clamp(min=0)) * self.scale, indices != NO_WORD
