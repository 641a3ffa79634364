"""Files of weights -> tensors under the names of LeRobot's pi-0, whoever wrote them.

The names, without a leading `model.`: `paligemma_with_expert.paligemma.model.{vision_tower,
multi_modal_projector,language_model}`, `paligemma_with_expert.gemma_expert.model`, and
`action_in_proj`, `time_mlp_in`, ... beside them. openpi's PyTorch export has the same ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from e0.weights.entries import Entries, Entry, WeightsError
from e0.weights.jax_names import JAX_MARK, translate_jax

PALIGEMMA = "paligemma_with_expert.paligemma."
EXPERT = "paligemma_with_expert.gemma_expert."
INDEX = "model.safetensors.index.json"
REPORT = "report.json"
TORCH_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True)
class Source:
    """Weights that were found.

    kind: `pi0`, `pi05`, `paligemma` or `e0-authors`. path: the file or directory. files: all that
    was read. entries: the tensors by LeRobot's pi-0 names.
    """

    kind: str
    path: Path
    files: tuple[Path, ...]
    entries: Entries

    def sha256(self) -> str:
        """Of the contents of all files, in their order."""
        digest = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                while block := stream.read(1 << 24):
                    digest.update(block)
        return digest.hexdigest()


def open_source(location: str | Path) -> Source:
    """Weights from a safetensors file, a directory (sharded or not; orbax where its library is
    installed), or a hub id such as `lerobot/pi05_base`.

    Only names, shapes and types are read. Raises WeightsError that says what the file looks like.
    """
    path = Path(location)
    if not path.exists():
        path = _download(str(location))
    if _is_orbax(path):
        entries = _read_orbax(path)
        files = tuple(sorted(file for file in path.rglob("*") if file.is_file()))
    else:
        files = _safetensors_files(path)
        entries = {}
        for file in files:
            entries |= dict(_read_safetensors(file))
    kind, named = recognize(entries, path)
    return Source(kind, path, files, named)


def recognize(entries: Entries, path: Path) -> tuple[str, Entries]:
    """What wrote these tensors, and they by LeRobot's pi-0 names. WeightsError if unknown."""
    if any(JAX_MARK in name for name in entries):
        return "e0-authors", translate_jax(entries)
    # `model.` in front is LeRobot's; openpi's export lacks it.
    named = {name.removeprefix("model."): entry for name, entry in entries.items()}
    if any(name.startswith(EXPERT) for name in named):
        return _kind_of(named), named
    if any("vision_tower.vision_model." in name for name in entries):
        return "paligemma", {_paligemma_name(name): entry for name, entry in entries.items()}
    raise WeightsError(
        f"{path} holds no pi-0, pi-0.5, PaliGemma or E0 weights. It has {len(entries)} tensors, "
        f"{_outline(entries)}. Give a LeRobot or openpi pi-0 checkpoint, PaliGemma from "
        "transformers, or the parameters of E0's authors"
    )


def _kind_of(named: Entries) -> str:
    if "e0_action_in_proj.weight" in named:
        return "e0-authors"
    return "pi05" if "time_mlp_in.weight" in named else "pi0"


def _outline(entries: Entries) -> str:
    """The beginnings of the names, and the first tensor with its shape."""
    if not entries:
        return "none at all"
    roots = sorted({name.replace("/", ".").split(".")[0] for name in entries})
    first = min(entries)
    shown = ", ".join(roots[:6]) + (", ..." if len(roots) > 6 else "")
    return f"under {shown}, such as {first} {entries[first].shape}"


def _paligemma_name(name: str) -> str:
    """A name of transformers' PaliGemma, old or new, as part of pi-0."""
    name = name.removeprefix("model.")
    if name.startswith("language_model.model."):  # before transformers 4.52
        name = "language_model." + name.removeprefix("language_model.model.")
    if name.startswith("language_model.lm_head."):
        name = name.removeprefix("language_model.")
    return PALIGEMMA + (name if name.startswith("lm_head.") else "model." + name)


def _safetensors_files(path: Path) -> tuple[Path, ...]:
    if path.is_file():
        return (path,)
    index = path / INDEX
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{index} is no index of safetensors files: {error}") from error
        files = tuple(path / name for name in names)
        if any(Path(name).name != name for name in names):
            raise WeightsError(f"{index} names files outside its directory: {names}")
        missing = [file.name for file in files if not file.exists()]
        if missing:
            raise WeightsError(f"{path} lacks {', '.join(missing)}, which {INDEX} names")
        return files
    files = tuple(sorted(path.glob("*.safetensors")))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise WeightsError(
            f"{path} must hold one safetensors file, or {INDEX} with its parts; found {found}"
        )
    return files


def _read_safetensors(file: Path) -> Iterator[tuple[str, Entry]]:
    try:
        with safe_open(file, framework="pt") as opened:
            for name in list(opened.keys()):
                part = opened.get_slice(name)
                dtype = TORCH_TYPES.get(part.get_dtype())
                if dtype is None:
                    raise WeightsError(
                        f"{name} in {file} has type {part.get_dtype()}; weights are floating point "
                        "numbers: quantized checkpoints must be converted first"
                    )
                yield name, Entry(tuple(part.get_shape()), dtype, _loader(file, name))
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{file} cannot be read as safetensors: {_looks_like(file, error)}"
        ) from (error)


def _loader(file: Path, name: str):
    def load() -> torch.Tensor:
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(name)

    return load


def _looks_like(file: Path, error: Exception) -> str:
    """What a file that is no safetensors file seems to be."""
    size = file.stat().st_size
    start = file.open("rb").read(64)
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself: run `git lfs pull`"
    if start.startswith(b"PK"):
        return "it is a zip archive, such as torch.save writes: convert it to safetensors"
    if start.startswith((b"\x80\x02", b"\x80\x04")):
        return "it is a Python pickle, which is not opened: convert it to safetensors"
    if start.lstrip().startswith((b"<", b"{")):
        return f"it is text, beginning with {start[:20]!r}"
    return f"{size:,} bytes, damaged or cut off ({error})"


def _is_orbax(path: Path) -> bool:
    return path.is_dir() and any(
        (path / name).exists() for name in ("_METADATA", "_CHECKPOINT_METADATA")
    )


def _read_orbax(path: Path) -> Entries:
    try:
        import orbax.checkpoint as ocp  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise WeightsError(
            f"{path} is an orbax checkpoint; reading it needs `pip install orbax-checkpoint`"
        ) from error
    import numpy as np

    tree = ocp.PyTreeCheckpointer().restore(path)
    entries = {}

    def walk(node: object, name: str) -> None:
        if isinstance(node, dict):
            for key, child in node.items():
                walk(child, f"{name}/{key}" if name else str(key))
        else:
            entries[name] = Entry.of(torch.from_numpy(np.asarray(node, dtype=np.float32)))

    walk(tree, "")
    return entries


def _download(name: str) -> Path:
    """A repository of the Hugging Face hub, as it lies in the local cache."""
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise WeightsError(f"{name!r} is neither a file, a directory nor a hub id (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    wanted = ["*.safetensors", "*.safetensors.index.json", "config.json"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise WeightsError(
            f"no local path {name!r}, and the hub did not give it: {error}"
        ) from error
