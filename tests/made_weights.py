"""Small weights under the names that others give theirs, with random numbers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from e0.network.presets import PRESETS, Preset, WordShape
from e0.network.siglip import SiglipShape
from e0.network.transformer import BlockShape

PALIGEMMA = "paligemma_with_expert.paligemma.model."
EXPERT = "paligemma_with_expert.gemma_expert.model."
DIMENSIONS = 32
PRESET_OF = {"pi0": "paligemma_pi0_debug", "pi05": "paligemma_debug"}


def pi_weights(kind: str) -> dict[str, Tensor]:
    """LeRobot's pi0 or pi05 without `model.` in front, in the sizes of the debug preset."""
    preset = PRESETS[PRESET_OF[kind]]
    shapes = _vision(preset) | _gemma(PALIGEMMA + "language_model.", preset, preset.prefix, False)
    shapes |= _gemma(EXPERT, preset, preset.suffix, adaptive=kind == "pi05")
    assert isinstance(preset.language, WordShape)
    words, width = preset.language.vocabulary, preset.suffix.width
    shapes[PALIGEMMA + "language_model.embed_tokens.weight"] = (words, preset.prefix.width)
    shapes["paligemma_with_expert.paligemma.lm_head.weight"] = (words, preset.prefix.width)
    shapes["paligemma_with_expert.gemma_expert.lm_head.weight"] = (words, width)
    shapes |= _linear("action_in_proj", DIMENSIONS, width)
    shapes |= _linear("action_out_proj", width, DIMENSIONS)
    if kind == "pi05":
        shapes |= _linear("time_mlp_in", width, width) | _linear("time_mlp_out", width, width)
    else:
        shapes |= _linear("state_proj", DIMENSIONS, width)
        shapes |= _linear("action_time_mlp_in", 2 * width, width)
        shapes |= _linear("action_time_mlp_out", width, width)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }
    weights["paligemma_with_expert.paligemma.lm_head.weight"] = weights[
        PALIGEMMA + "language_model.embed_tokens.weight"
    ].clone()
    return weights


def paligemma_weights(style: str) -> dict[str, Tensor]:
    """transformers' PaliGemma, by the names of today (`new`) or of before 4.52 (`old`)."""
    weights = {}
    for name, tensor in pi_weights("pi05").items():
        if name.startswith(PALIGEMMA):
            name = name.removeprefix(PALIGEMMA)
            if style == "new":
                name = f"model.{name}"
            elif name.startswith("language_model."):
                name = name.replace("language_model.", "language_model.model.", 1)
            weights[name] = tensor
        elif name.endswith("paligemma.lm_head.weight"):
            weights["lm_head.weight" if style == "new" else "language_model.lm_head.weight"] = (
                tensor
            )
    return weights


def write_tokenizer(directory: Path, *, adds_start: bool = True) -> Path:
    """A real tokenizer of a few hundred words in `tokenizer.json`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["Task: push the cube, State: 12 255;", "Action: pick up the red cube"], trainer
    )
    if adds_start:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 2)]
        )
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory / "tokenizer.json"


def _linear(name: str, inputs: int, outputs: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return shapes | ({f"{name}.bias": (outputs,)} if bias else {})


def _layer_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _vision(preset: Preset) -> dict[str, tuple[int, ...]]:
    shape = preset.vision
    assert isinstance(shape, SiglipShape)
    root, width = PALIGEMMA + "vision_tower.vision_model.", shape.width
    patches = (preset.image_size[0] // shape.patch) * (preset.image_size[1] // shape.patch)
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}embeddings.patch_embedding.weight": (width, 3, shape.patch, shape.patch),
        f"{root}embeddings.patch_embedding.bias": (width,),
        f"{root}embeddings.position_embedding.weight": (patches, width),
    }
    for index in range(shape.depth):
        layer = f"{root}encoder.layers.{index}."
        for role in ("q", "k", "v", "out"):
            shapes |= _linear(f"{layer}self_attn.{role}_proj", width, width)
        shapes |= _linear(f"{layer}mlp.fc1", width, shape.hidden)
        shapes |= _linear(f"{layer}mlp.fc2", shape.hidden, width)
        shapes |= _layer_norm(f"{layer}layer_norm1", width)
        shapes |= _layer_norm(f"{layer}layer_norm2", width)
    shapes |= _layer_norm(f"{root}post_layernorm", width)
    return shapes | _linear(PALIGEMMA + "multi_modal_projector.linear", width, preset.prefix.width)


def _gemma(
    root: str, preset: Preset, shape: BlockShape, adaptive: bool
) -> dict[str, tuple[int, ...]]:
    def norm(name: str) -> dict[str, tuple[int, ...]]:
        if adaptive:
            return _linear(f"{name}.dense", shape.width, 3 * shape.width)
        return {f"{name}.weight": (shape.width,)}

    queries, keys = shape.heads * shape.head_width, shape.key_value_heads * shape.head_width
    shapes = norm(f"{root}norm")
    for index in range(preset.depth):
        layer = f"{root}layers.{index}."
        shapes |= norm(f"{layer}input_layernorm") | norm(f"{layer}post_attention_layernorm")
        for role, size in (("q", queries), ("k", keys), ("v", keys)):
            shapes |= _linear(f"{layer}self_attn.{role}_proj", shape.width, size, bias=False)
        shapes |= _linear(f"{layer}self_attn.o_proj", queries, shape.width, bias=False)
        for role in ("gate", "up"):
            shapes |= _linear(f"{layer}mlp.{role}_proj", shape.width, shape.hidden, bias=False)
        shapes |= _linear(f"{layer}mlp.down_proj", shape.hidden, shape.width, bias=False)
    return shapes
