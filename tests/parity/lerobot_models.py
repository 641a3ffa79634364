"""LeRobot's pi-0 and pi-0.5 at a tiny size, with weights that hide no mistake."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch

from e0.network.presets import PRESETS, Preset, WordShape
from e0_bench.speed.lerobot_peers import VOCABULARY, Kind, configuration, sizes_of


def tiny_preset(kind: Kind) -> Preset:
    """Our preset of the model's sizes."""
    name = "paligemma_debug" if kind == "pi05" else "paligemma_pi0_debug"
    return replace(PRESETS[name], language=WordShape(VOCABULARY))


@dataclass
class Reference:
    """LeRobot's model, and the module that it comes from."""

    kind: Kind
    model: Any
    module: ModuleType


def make_reference(kind: Kind) -> Reference:
    """LeRobot's model with random weights, also where it starts with zeros."""
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    with sizes_of(kind, tiny_preset(kind)) as module:
        model_class = module.PI0Pytorch if kind == "pi0" else module.PI05Pytorch
        config = configuration(kind, device="cpu", chunk_size=6, n_action_steps=6)
        model = model_class(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_tokens" not in name and "lm_head" not in name:
                scale = 0.3 if parameter.ndim == 1 else 0.15
                parameter.normal_(0.0, scale, generator=generator)
    return Reference(kind, model, module)
