"""A pretrained vision model of the library transformers as the tower of a from-scratch policy."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from e0.network.presets import find_preset
from e0.network.vision import PLACE_WIDTH, coordinates, place_features
from lerobot_policy_e0.configuration_e0 import E0Config
from lerobot_policy_e0.vision_model import (
    VisionError,
    VisionModel,
    find_vision_model,
    transformers,
    vision_directory,
)

logger = logging.getLogger(__name__)


class VisionTower(nn.Module):
    """Images -> the last hidden states of a model, projected to the policy's width.

    The cells of a convolutional map get their coordinates; patches of a transformer know their
    place. A class token stays: it was trained to sum the picture up, and is one of hundreds. Batch
    norms keep the statistics that they come with, as in ACT (arXiv 2304.13705): those of small
    batches of similar pictures would be worse.

    directory: where the weights are read from, strictly; random ones if None. Raises VisionError if
    a tensor is missing, has another shape, or is not known.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: VisionModel, width: int, directory: Path | None = None) -> None:
        super().__init__()
        self.model = model
        for name, values in (("mean", model.mean), ("std", model.std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.pretrained: Any = _load(model, directory)
        if "hidden_sizes" in model.config:  # of a map
            channels = model.config["hidden_sizes"][-1] + PLACE_WIDTH
        else:
            channels = model.config["hidden_size"]
        self.projection = nn.Linear(channels, width)

    def forward(self, images: Tensor) -> Tensor:
        """`images` (N, 3, height, width) in [0, 1] -> tokens (N, P, C)."""
        pixels = (images - self.mean) / self.std
        tokens = self.pretrained(pixel_values=pixels).last_hidden_state
        if tokens.ndim == 4:
            grid = coordinates(tokens.shape[-2], tokens.shape[-1], tokens.device)
            places = place_features(grid).to(tokens.dtype).expand(len(tokens), -1, -1)
            tokens = torch.cat((tokens.flatten(2).transpose(1, 2), places), dim=-1)
        return self.projection(tokens)

    def train(self, mode: bool = True) -> VisionTower:
        """As always, but for batch norms."""
        super().train(mode)
        for module in self.pretrained.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def extra_repr(self) -> str:
        """What makes two towers with the same weights see the same."""
        kept = {"mean": self.model.mean, "std": self.model.std, **self.model.config}
        return f"{self.model.config['model_type']} {json.dumps(kept, sort_keys=True)}"


def make_tower(config: E0Config, new: bool) -> VisionTower | None:
    """The tower that the configuration asks for, None for the preset's own; the configuration gets
    what its checkpoints keep of it. A new policy's has its weights; a checkpoint's get them later.

    Raises VisionError for a model that cannot be had, and if a checkpoint's is to be another one.
    """
    if config.vision is None:
        return None
    width = find_preset(config.preset).prefix.width
    if config.vision_config is not None and not new:
        kept = VisionModel.from_json(config.vision_config)
        _require_kept(config, kept)
        return VisionTower(kept, width)
    if config.pretrained_path and not new:
        raise VisionError(
            f"{config.pretrained_path} was trained with the preset's own vision tower; "
            f"vision={config.vision!r} needs a new policy: leave out --policy.path"
        )
    model = find_vision_model(config.vision, config.vision_weights)
    random = config.vision_weights == "random"
    tower = VisionTower(model, width, None if random else vision_directory(config.vision))
    config.vision_config = model.to_json()
    return tower


def optimizer_groups(
    groups: list[dict[str, Any]], tower: nn.Module | None, rate: float | None
) -> list[dict[str, Any]]:
    """Groups of parameters in which those of a pretrained vision model learn at a rate of their
    own, None for that of the others. The others come first: LeRobot logs the rate of these."""
    if rate is None or not isinstance(tower, VisionTower):
        return groups
    pretrained = {id(parameter) for parameter in tower.pretrained.parameters()}
    others = [
        {**group, "params": [p for p in group["params"] if id(p) not in pretrained]}
        for group in groups
    ]
    own = [
        {**group, "params": [p for p in group["params"] if id(p) in pretrained], "lr": rate}
        for group in groups
    ]
    return others + [group for group in own if group["params"]]


def _require_kept(config: E0Config, kept: VisionModel) -> None:
    asked = {"vision": config.vision, "vision_weights": config.vision_weights}
    for setting, had in (("vision", kept.name), ("vision_weights", kept.weights)):
        if asked[setting] != had:
            raise VisionError(
                f"this checkpoint was trained with {setting}={had}, which cannot become "
                f"{asked[setting]}: leave out --policy.{setting}, or train a new policy"
            )


def _load(model: VisionModel, directory: Path | None) -> Any:
    """The model of transformers, in float32."""
    library = transformers()
    config = library.AutoConfig.for_model(**model.config)
    if directory is None:
        return library.AutoModel.from_config(config, dtype=torch.float32)
    level = library.logging.get_verbosity()
    library.logging.set_verbosity_error()  # what is left out is looked at below
    try:
        loaded, report = library.AutoModel.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, by their names
        )
    except Exception as error:  # of many kinds, bare ones among them
        raise VisionError(
            f"vision={model.name!r}: the weights in {directory} cannot be read: {error}"
        ) from error
    finally:
        library.logging.set_verbosity(level)
    mismatched = sorted(report["mismatched_keys"])
    problems = [f"{n} is {tuple(has)}, expected {tuple(needs)}" for n, has, needs in mismatched]
    different = {name for name, *_ in mismatched}
    problems += [f"missing {name}" for name in sorted(set(report["missing_keys"]) - different)]
    problems += [
        f"unknown {name}"
        for name in sorted(report["unexpected_keys"])
        if not re.search(model.family.unused, name)
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (" ..." if len(problems) > 5 else "")
        raise VisionError(
            f"vision={model.name!r}: the weights in {directory} are not those of its config.json "
            f"({len(problems)} differences): {shown}. Download the model anew"
        )
    logger.info("vision model %s with the weights in %s", model.name, directory)
    return loaded
