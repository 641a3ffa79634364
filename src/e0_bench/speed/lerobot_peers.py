"""LeRobot's pi-0 and pi-0.5, to compare with: at full size as they ship, or at any other size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal

import torch
from lerobot.configs import FeatureType, PolicyFeature
from torch import Tensor, nn

from e0.network.language import NO_WORD
from e0.network.presets import Preset, find_preset
from e0.network.siglip import SiglipShape

Kind = Literal["pi0", "pi05"]
VOCABULARY = 257_152  # fixed in LeRobot's code
STATE_DIM = 32  # likewise: shorter states are padded
CAMERA = "observation.images.camera{}"


def modeling(kind: Kind) -> ModuleType:
    """LeRobot's module. Raises ImportError without the library transformers."""
    if kind == "pi0":
        from lerobot.policies.pi0 import modeling_pi0 as module
    else:
        from lerobot.policies.pi05 import modeling_pi05 as module
    return module


def configuration(kind: Kind, **settings: Any) -> Any:
    """LeRobot's configuration of this model."""
    if kind == "pi0":
        from lerobot.policies.pi0.configuration_pi0 import PI0Config as Config
    else:
        from lerobot.policies.pi05.configuration_pi05 import PI05Config as Config
    return Config(**settings)


@contextmanager
def sizes_of(kind: Kind, preset: Preset) -> Iterator[ModuleType]:
    """While this is open, LeRobot builds its model in the preset's sizes instead of its own, which
    are fixed in its code. Only their word embedding keeps its size."""
    module = modeling(kind)
    vision = preset.vision
    assert isinstance(vision, SiglipShape)
    original_sizes = module.get_gemma_config
    original_model = module.PaliGemmaForConditionalGenerationWithPiGemma

    def gemma(variant: str) -> Any:
        shape = preset.prefix if variant == "gemma_2b" else preset.suffix
        return module.GemmaConfig(
            shape.width,
            preset.depth,
            shape.hidden,
            shape.heads,
            shape.key_value_heads,
            shape.head_width,
        )

    def paligemma(config: Any) -> nn.Module:
        own = config.vision_config
        own.hidden_size, own.num_hidden_layers = vision.width, vision.depth
        own.num_attention_heads, own.intermediate_size = vision.heads, vision.hidden
        own.patch_size, own.projection_dim = vision.patch, preset.prefix.width
        return original_model(config)

    changed: Any = module
    changed.get_gemma_config = gemma
    changed.PaliGemmaForConditionalGenerationWithPiGemma = paligemma
    try:
        yield module
    finally:
        changed.get_gemma_config = original_sizes
        changed.PaliGemmaForConditionalGenerationWithPiGemma = original_model


def make_peer(
    kind: Kind,
    preset: str,
    *,
    cameras: int,
    horizon: int,
    device: torch.device,
    dtype: str,
    compiled: bool = False,
) -> Any:
    """LeRobot's policy with random weights in our preset's sizes."""
    config = configuration(
        kind,
        device=str(device),
        dtype=dtype,
        chunk_size=horizon,
        n_action_steps=horizon,
        compile_model=compiled,
    )
    config.input_features = {
        "observation.state": PolicyFeature(FeatureType.STATE, (STATE_DIM,)),
        **{
            CAMERA.format(index): PolicyFeature(FeatureType.VISUAL, (3, 480, 640))
            for index in range(cameras)
        },
    }
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (STATE_DIM,))}
    policy_class = "PI0Policy" if kind == "pi0" else "PI05Policy"
    with sizes_of(kind, find_preset(preset)) as module, torch.device(device):
        return getattr(module, policy_class)(config).eval()


def peer_batch(policy: Any, images: list[Tensor], words: Tensor) -> dict[str, Tensor]:
    """A batch as its preprocessor hands it over: prompts (B, L), `NO_WORD` where there is none,
    padded to the policy's maximum."""
    batch, device = len(images[0]), images[0].device
    padding = policy.config.tokenizer_max_length - words.shape[1]
    padded = torch.nn.functional.pad(words.to(device), (0, padding), value=NO_WORD)
    steps = policy.config.chunk_size
    return {
        **{CAMERA.format(index): image for index, image in enumerate(images)},
        "observation.state": torch.randn(batch, STATE_DIM, device=device),
        "observation.language.tokens": padded.clamp(min=0),
        "observation.language.attention_mask": padded != NO_WORD,
        "action": torch.randn(batch, steps, STATE_DIM, device=device),
    }
