"""Weights of others, checked and kept for E0: `e0 import-weights`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from e0.weights import convert_weights, open_source


@dataclass(frozen=True)
class ImportWeightsCommand:
    """Which weights, and where they go."""

    source: Annotated[str, tyro.conf.Positional]
    """A safetensors file, a directory (sharded or not; orbax where installed), or a hub id."""
    output: Path
    """Directory to write; must not exist yet."""
    preset: str | None = None
    """Whose sizes the weights must have; found by their shapes if not given."""
    tokenizer: str | None = None
    """Text tokenizer to keep beside them: a tokenizer.json, a directory with one, or a hub id."""


def run_import_weights(command: ImportWeightsCommand) -> None:
    """Convert and report. Raises what `convert_weights` raises."""
    report = convert_weights(
        open_source(command.source),
        command.output,
        preset=command.preset,
        tokenizer=command.tokenizer,
    )
    print(f"{report.summary()}\nStart from it with --policy.init_from={command.output}")
