"""LeRobot's pi-0 and pi-0.5 at a tiny size: their size tables are replaced while they are built."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from e0.network.presets import PRESETS, Preset, WordShape
from e0.network.siglip import SiglipShape
from e0.network.transformer import BlockShape

VOCABULARY = 257152  # fixed in LeRobot's code
VISION = SiglipShape(width=32, depth=2, hidden=48, heads=2, patch=56)
LANGUAGE = BlockShape(width=64, hidden=96, heads=8, key_value_heads=1, head_width=16)
EXPERT = BlockShape(width=32, hidden=56, heads=8, key_value_heads=1, head_width=16)
DEPTH = 3


def tiny_preset(kind: str) -> Preset:
    """Our preset of the sizes below."""
    from dataclasses import replace

    return replace(
        PRESETS["paligemma" if kind == "pi05" else "paligemma_pi0"],
        prefix=LANGUAGE,
        suffix=EXPERT,
        depth=DEPTH,
        vision=VISION,
        language=WordShape(VOCABULARY),
        time_width=EXPERT.width,
    )


@dataclass
class Reference:
    """LeRobot's model, and the module that it comes from."""

    kind: str
    model: Any
    module: ModuleType


def make_reference(kind: str, monkeypatch: pytest.MonkeyPatch) -> Reference:
    """LeRobot's pi0 or pi05 with random weights, none of them at a value that hides a mistake."""
    pytest.importorskip("transformers")
    if kind == "pi0":
        from lerobot.policies.pi0 import modeling_pi0 as module
        from lerobot.policies.pi0.configuration_pi0 import PI0Config as Config

        model_class = module.PI0Pytorch
    else:
        from lerobot.policies.pi05 import modeling_pi05 as module
        from lerobot.policies.pi05.configuration_pi05 import PI05Config as Config

        model_class = module.PI05Pytorch

    def sizes(variant: str) -> Any:
        shape = LANGUAGE if variant == "gemma_2b" else EXPERT
        return module.GemmaConfig(
            shape.width, DEPTH, shape.hidden, shape.heads, shape.key_value_heads, shape.head_width
        )

    original = module.PaliGemmaForConditionalGenerationWithPiGemma

    def small_paligemma(config: Any) -> nn.Module:
        vision = config.vision_config
        vision.hidden_size, vision.num_hidden_layers = VISION.width, VISION.depth
        vision.num_attention_heads, vision.intermediate_size = VISION.heads, VISION.hidden
        vision.patch_size, vision.projection_dim = VISION.patch, LANGUAGE.width
        return original(config)

    monkeypatch.setattr(module, "get_gemma_config", sizes)
    monkeypatch.setattr(module, "PaliGemmaForConditionalGenerationWithPiGemma", small_paligemma)
    torch.manual_seed(0)
    model = model_class(Config(device="cpu", chunk_size=6, n_action_steps=6)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Norms start at zero and adaptive ones too: moved, so that a wrong place shows.
            scale = 0.3 if parameter.ndim == 1 else 0.15
            if "embed_tokens" in name or "lm_head" in name:
                continue
            parameter.normal_(0.0, scale, generator=generator)
    return Reference(kind, model, module)
