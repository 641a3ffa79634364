"""`e0 import-weights`: any supported source as safetensors of what E0 uses, checked once.

The directory that it writes is a source itself, so `--policy.init_from` takes it; it no longer
needs JAX, orbax or the dead tensors of the original.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from e0.network.presets import PRESETS, Preset, WordShape, find_preset
from e0.policy import Policy, PolicySettings
from e0.prompts import TextTokenizer
from e0.weights.entries import Entry, WeightsError
from e0.weights.importing import LAYOUTS, ImportReport, match_weights
from e0.weights.plan import STATE_FEATURES, TIED_WORDS, WORDS
from e0.weights.sources import INDEX, REPORT, Source

SHARD_BYTES = 2 << 30


def convert_weights(
    source: Source,
    output: Path,
    *,
    preset: str | None = None,
    tokenizer: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> ImportReport:
    """Write `output`: the tensors that E0 uses, by LeRobot's pi-0 names, an account of all tensors
    (`report.json`) and, if a text tokenizer is given, `tokenizer.json`.

    preset: whose sizes the source must have; found by its shapes if None. At most `shard_bytes` are
    held in memory and lie in one file. The directory appears whole or not at all.

    Raises WeightsError if the source fits no preset, or not this one, and FileExistsError if
    `output` is there.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists; choose another --output or remove it")
    policy = matching_policy(source, preset)
    _, report = match_weights(policy, source)
    text = None if tokenizer is None else TextTokenizer(tokenizer)
    output.parent.mkdir(parents=True, exist_ok=True)
    # A directory of its own, so that two imports don't meet; a kill leaves it.
    with TemporaryDirectory(prefix=f"{output.name}.partial-", dir=output.parent) as partial:
        draft = Path(partial, output.name)
        draft.mkdir()
        _write(_wanted(source, report), draft, shard_bytes)
        (draft / REPORT).write_text(json.dumps(report.to_json(), indent=1))
        if text is not None:
            text.save(draft)
        _place(draft, output)
    return report


def _place(draft: Path, output: Path) -> None:
    """Rename a finished directory, after its files are on the disk."""
    for file in draft.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    draft.rename(output)


def matching_policy(source: Source, preset: str | None) -> Policy:
    """A policy on the meta device which uses as much of the source as any can.

    Raises WeightsError if no preset has the source's sizes.
    """
    shapes = {name: entry.shape for name, entry in source.entries.items()}
    sizes = find_preset(preset or _preset_of(source))
    state = shapes.get("state_proj.weight", (0, 0))[1] if sizes.state == "suffix" else 0
    codes = shapes.get("e0_action_in_proj.weight")
    settings = PolicySettings(
        cameras=("base",),
        vectors={STATE_FEATURES[0]: state} if state else {},
        action_dim=shapes.get("action_in_proj.weight", (0, 1))[1],
        preset=sizes,
        objective="flow" if codes is None else "hybrid",
        token_grain="step" if codes is None else "dimension",
        vocabulary_size=256 if codes is None else codes[1],
        head="linear",
    )
    with torch.device("meta"):
        return Policy(settings)


def _preset_of(source: Source) -> str:
    """The preset with the source's layout, width, depth and vocabulary."""
    words = source.entries.get(WORDS) or source.entries.get(TIED_WORDS)
    if words is None:
        raise WeightsError(f"{source.path} holds no word embedding ({WORDS})")
    depth = len(
        {
            name.split(".layers.")[1].split(".")[0]
            for name in source.entries
            if name.startswith(WORDS.removesuffix("embed_tokens.weight") + "layers.")
        }
    )
    for name, preset in PRESETS.items():
        if _has_sizes(preset, source.kind, words.shape, depth):
            return name
    raise WeightsError(
        f"{source.path} ({source.kind}) has {depth} language layers and word embeddings of shape "
        f"{words.shape}, which no preset has; give --preset, or add one to e0.network.presets"
    )


def _has_sizes(preset: Preset, kind: str, words: tuple[int, ...], depth: int) -> bool:
    language = preset.language
    return (
        isinstance(language, WordShape)
        and LAYOUTS.get(kind, "adaptive") == preset.time
        and words[1] == preset.prefix.width
        and words[0] >= language.vocabulary
        and depth == preset.depth
    )


def _wanted(source: Source, report: ImportReport) -> dict[str, Entry]:
    """The tensors that the report says are used, once each."""
    names = dict.fromkeys(name for names in report.used.values() for name in names)
    return {name: source.entries[name] for name in names}


def _write(entries: dict[str, Entry], directory: Path, shard_bytes: int) -> None:
    """Numbered safetensors files and their index, as transformers reads and writes them."""
    shards = list(_shards(entries, shard_bytes))
    places: dict[str, str] = {}
    with tqdm(total=len(entries), desc="Importing", unit="tensor") as bar:
        for number, names in enumerate(shards, 1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            tensors: dict[str, Tensor] = {}
            for name in names:
                tensors[name] = entries[name].load().contiguous().clone()
                bar.update()
            save_file(tensors, directory / file, metadata={"format": "pt"})
            places |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": places}
    (directory / INDEX).write_text(json.dumps(index, indent=1))


def _shards(entries: dict[str, Entry], shard_bytes: int) -> Iterator[list[str]]:
    """Names of the tensors of each file."""
    names: list[str] = []
    size = 0
    for name, entry in entries.items():
        bytes_ = entry.dtype.itemsize * torch.Size(entry.shape).numel()
        if names and size + bytes_ > shard_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += bytes_
    yield names
