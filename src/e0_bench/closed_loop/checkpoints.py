"""The policies of a benchmark: LeRobot checkpoints, also of adapters and on the hub; their labels
and identity."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from e0_bench.closed_loop.decodings import Decoding
from e0_bench.files import read_json

if TYPE_CHECKING:
    from lerobot.configs import PolicyFeature

    from lerobot_policy_e0 import E0Config

UNINFORMATIVE = {"pretrained_model", "checkpoints", "train"}


class BenchmarkCheckpointError(ValueError):
    """A checkpoint that is given twice, or does not fit what it is to be run on."""


@dataclass(frozen=True)
class Checkpoint:
    """A policy to run. files: SHA-256 of everything that its behaviour depends on, by file name;
    of an adapter those of the policy that it adapts as `base/NAME`. decoding: None for its own.
    name: the label before the decoding's name was added to it."""

    label: str
    directory: Path
    type: str
    files: Mapping[str, str]
    decoding: Decoding | None = None
    name: str | None = None

    def record(self) -> dict[str, Any]:
        """As JSON data."""
        row = {"checkpoint": str(self.directory), "type": self.type, "files": dict(self.files)}
        if self.decoding is None:
            return row
        return row | {"name": self.name, "decoding": dict(self.decoding.settings)}

    def decoded(self, decoding: Decoding) -> Checkpoint:
        """The same policy decoded in another way, under another label.

        Raises BenchmarkCheckpointError for a policy that is not of E0, or cannot be decoded so."""
        from lerobot_policy_e0.loading import read_config

        if self.type != "e0":
            raise BenchmarkCheckpointError(
                f"--decodings are for E0 policies; {self.label!r} is of type {self.type!r}. Leave "
                "them out, or benchmark that policy apart"
            )
        decoding.of(cast("E0Config", read_config(self.directory)))
        return replace(self, label=decoding.label(self.label), decoding=decoding, name=self.label)


def read_checkpoints(
    directories: Sequence[Path],
    labels: Sequence[str] = (),
    recorded: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Checkpoint]:
    """The checkpoints in these directories, with the given labels, or, without any, those they
    have in `recorded` (label to `Checkpoint.record`), or else short ones made from their paths.

    Raises CheckpointError for a directory that holds no checkpoint, BenchmarkCheckpointError for
    one given twice, labels that do not match in number, repeat or stand for another checkpoint.
    """
    from lerobot_policy_e0.loading import file_hashes, on_this_disk, read_config

    recorded = recorded or {}
    if not directories:
        raise BenchmarkCheckpointError("give at least one checkpoint directory")
    if labels and len(labels) != len(directories):
        raise BenchmarkCheckpointError(
            f"give one label for each checkpoint: {len(directories)} checkpoints, "
            f"{len(labels)} labels"
        )
    given, directories = directories, [on_this_disk(place) for place in directories]
    files = [file_hashes(directory) for directory in directories]
    for index, content in enumerate(files):
        if content in files[:index]:
            first = directories[files.index(content)]
            raise BenchmarkCheckpointError(
                f"the same checkpoint is given twice: {first} and {directories[index]}"
            )
    if not labels:
        known = {
            _identity(entry["files"]): entry.get("name", label) for label, entry in recorded.items()
        }
        short = short_labels(given)
        labels = [
            known.get(_identity(content), name) for content, name in zip(files, short, strict=True)
        ]
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        raise BenchmarkCheckpointError(
            f"the label {repeated[0]!r} stands for several checkpoints; give others with --labels"
        )
    return [
        Checkpoint(label, directory, read_config(directory).type, content)
        for label, directory, content in zip(labels, directories, files, strict=True)
    ]


def short_labels(directories: Sequence[Path]) -> list[str]:
    """Short names that tell the directories apart: the training's name; with its step, or with the
    directory above, only where needed."""
    places = [_place(directory) for directory in directories]
    for depth in (1, 2, 3):
        names = ["/".join(run[-depth:]) for run, _ in places]
        with_step = [
            f"{name}@{step}" if step else name
            for name, (_, step) in zip(names, places, strict=True)
        ]
        for candidates in (names, with_step):
            if len(set(candidates)) == len(candidates):
                return candidates
    return [str(directory) for directory in directories]


def _place(directory: Path) -> tuple[list[str], str]:
    """(path of the training, step) of TRAINING/checkpoints/STEP/pretrained_model; a directory
    elsewhere is a training without steps."""
    parts = list(directory.absolute().parts[1:])
    step = ""
    if parts[-3:-2] == ["checkpoints"] and parts[-1] == "pretrained_model":
        step = directory.parent.resolve().name  # "last" is a link
        parts.pop(-2)
    return [part for part in parts if part not in UNINFORMATIVE] or [directory.name], step


def _identity(files: Mapping[str, str]) -> str:
    return json.dumps(dict(files), sort_keys=True)


def check_fit(
    checkpoint: Checkpoint, task: str, offered: Mapping[str, tuple[int, ...]], action_size: int
) -> None:
    """Compare what the policy takes and gives with what the environment gives and takes.

    offered: shapes of the environment's observations, images as (3, height, width). Pictures may
    differ in size, since many policies resize them, and cameras may be more or fewer, as LeRobot
    allows. Raises BenchmarkCheckpointError telling both sides.
    """
    from lerobot_policy_e0.loading import read_config

    config = read_config(checkpoint.directory)
    renamed = _rename_map(checkpoint.directory)
    given = {renamed.get(name, name): shape for name, shape in offered.items()}
    action = config.action_feature
    size = None if action is None else int(action.shape[0])
    if wrong := misfit(config.input_features or {}, size, given, action_size):
        raise BenchmarkCheckpointError(
            f"policy {checkpoint.label!r} ({checkpoint.directory}) does not fit {task}: {wrong}. "
            "Choose other options of the environment, or another checkpoint"
        )


def misfit(
    inputs: Mapping[str, PolicyFeature],
    size: int | None,
    offered: Mapping[str, tuple[int, ...]],
    taken: int,
) -> str | None:
    """What a policy, or a dataset, and an environment have, if they don't fit: features to see and
    the size of an action on the one side, shapes of observations and the size of an action on the
    other. Pictures may differ as `check_fit` says."""
    from lerobot.configs import FeatureType

    images = {name for name, feature in inputs.items() if feature.type is FeatureType.VISUAL}
    cameras = {name for name in offered if _is_image(name)}
    fits = images <= cameras or (bool(cameras) and cameras <= images)
    for name, feature in inputs.items():
        if feature.type is not FeatureType.VISUAL:
            fits &= offered.get(name) == tuple(feature.shape)
    if fits and size == taken:
        return None
    expected = {name: tuple(feature.shape) for name, feature in inputs.items()}
    return (
        f"it has {_shapes(expected)} and actions of {size} numbers; the environment offers "
        f"{_shapes(offered)} and takes {taken}"
    )


def _rename_map(directory: Path) -> dict[str, str]:
    steps = read_json(directory / "policy_preprocessor.json")["steps"]
    maps = [step.get("config", {}).get("rename_map", {}) for step in steps]
    return {old: new for names in maps for old, new in names.items()}


def _is_image(name: str) -> bool:
    from lerobot.utils.constants import OBS_IMAGE

    return name.startswith(OBS_IMAGE)  # observation.image and observation.images.NAME


def _shapes(features: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(features.items())) or "nothing"
