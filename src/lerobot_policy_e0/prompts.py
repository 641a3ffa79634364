"""The words of a LeRobot batch as the indices that a policy's network reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from e0.finite import require_finite
from e0.network.language import encode_instructions
from e0.network.presets import ByteShape, find_preset
from e0.prompts import FILE, TextTokenizer, pi0_prompt, pi05_prompt
from lerobot_policy_e0.configuration_e0 import E0Config

Vectors = dict[str, Tensor]


class Prompts(Protocol):
    """Tasks and normalized vectors -> indices (B, L), and the vectors that remain numbers."""

    def encode(self, tasks: list[str], vectors: Vectors) -> Tensor: ...

    def network_vectors(self, vectors: Vectors) -> Vectors: ...

    def save(self, directory: Path) -> None: ...


@dataclass(frozen=True)
class BytePrompts:
    """The task's bytes; nothing to save."""

    maximum: int
    patch: int

    def encode(self, tasks: list[str], vectors: Vectors) -> Tensor:
        return encode_instructions(tasks, self.maximum, self.patch)

    def network_vectors(self, vectors: Vectors) -> Vectors:
        return vectors

    def save(self, directory: Path) -> None:
        return


@dataclass(frozen=True)
class WordPrompts:
    """Prompts of pi-0, or of pi-0.5 with all vectors told in them, one after another."""

    text: TextTokenizer | None
    maximum: int
    state_in_prompt: bool

    def encode(self, tasks: list[str], vectors: Vectors) -> Tensor:
        if self.text is None:
            raise ValueError(
                "this policy reads words and has no text tokenizer; make it with "
                "--policy.text_tokenizer=PATH_OR_HUB_ID (PaliGemma's is google/paligemma-3b-pt-224)"
            )
        if not self.state_in_prompt:
            return self.text.encode([pi0_prompt(task) for task in tasks], self.maximum)
        require_finite({f"vector {name}": vector for name, vector in vectors.items()})
        states = (
            torch.cat(list(vectors.values()), dim=-1) if vectors else torch.zeros(len(tasks), 0)
        )
        prompts = [pi05_prompt(task, state) for task, state in zip(tasks, states, strict=True)]
        return self.text.encode(prompts, self.maximum)

    def network_vectors(self, vectors: Vectors) -> Vectors:
        return {} if self.state_in_prompt else vectors

    def save(self, directory: Path) -> None:
        if self.text is not None:
            self.text.save(directory)


def find_tokenizer(config: E0Config) -> str | Path | None:
    """Where a new policy's text tokenizer is: its own setting, or beside the weights it starts
    from, where `e0 import-weights` puts it."""
    if config.text_tokenizer is None and config.init_from is not None:
        beside = Path(config.init_from) / FILE
        return beside if beside.is_file() else None
    return config.text_tokenizer


def tokenizer_of(checkpoint: str | Path) -> str | Path | None:
    """Where a checkpoint's text tokenizer is: in its directory, if it has one, or its hub id."""
    if not Path(checkpoint).is_dir():
        return checkpoint
    return checkpoint if (Path(checkpoint) / FILE).is_file() else None


def make_prompts(config: E0Config, tokenizer: str | Path | None) -> Prompts:
    """The prompts of a policy, whose words the tokenizer at this place (if any) cuts.

    Raises ValueError if it has more entries than the preset's word embedding.
    """
    preset = find_preset(config.preset)
    if isinstance(preset.language, ByteShape):
        return BytePrompts(config.maximum_instruction_bytes, preset.language.patch)
    reads = config.use_instruction and tokenizer is not None
    text = TextTokenizer(tokenizer) if reads and tokenizer is not None else None
    if text is not None and text.size > preset.language.vocabulary:
        raise ValueError(
            f"the text tokenizer {tokenizer} has {text.size} entries, the preset "
            f"{config.preset!r} embeds {preset.language.vocabulary}: use the one it was made for"
        )
    return WordPrompts(text, config.maximum_prompt_tokens, preset.state == "prompt")
