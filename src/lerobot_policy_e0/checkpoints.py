"""Weights of a checkpoint, strictly: what is missing or too much is named and never filled in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from e0.tokens import add_missing_bounds

RENAMED = {
    "model.network.action_in.": "model.network.action_tokens.input.",
    "model.network.action_out.": "model.network.action_tokens.output.",
}
"""Parts of earlier checkpoints, and what they are called now."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged or belongs to another model."""


def read_weights(file: str, device: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint's file, which must be those expected, by name and shape.

    Raises CheckpointError naming what differs, or that the file cannot be read.
    """
    try:
        state = load_file(file, device=str(torch.device(device)))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read the checkpoint {file}: {error}") from error
    for old, name in RENAMED.items():
        state = {key.replace(old, name, 1): tensor for key, tensor in state.items()}
    add_missing_bounds(state, "model.tokenizer.")
    problems = [f"missing {name}" for name in expected if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in expected]
    problems += [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (" ..." if len(problems) > 5 else "")
        raise CheckpointError(
            f"{file} does not fit this policy ({len(problems)} differences): {shown}"
        )
    return state


def refuse_adapter(directory: str | Path) -> None:
    """Raise CheckpointError if a directory holds an adapter in place of a policy."""
    adapter = Path(directory) / "adapter_config.json"
    if adapter.is_file() and not (Path(directory) / "model.safetensors").is_file():
        raise CheckpointError(
            f"{directory} holds an adapter (LoRA) and not the policy that it adapts: load that, "
            "put the adapter on it with peft.PeftModel.from_pretrained, and merge_and_unload"
        )
