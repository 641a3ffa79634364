"""What training needs in memory, derived from the presets by arithmetic.

    python benchmarks/memory.py [--preset paligemma] [--batch 32] [--cameras 2] [--horizon 50]

Nothing is trained: the network is made without numbers and its parameters are counted. Float32
weights, gradients and the two states of AdamW take 16 bytes for every trained parameter, an average
of the weights 4 more; frozen ones take 4. Activations that the backward pass needs are kept in
bfloat16 for the parts that are trained or lie behind one that is:

    for every token and block   2 · (3 C + 2 N E + 2 G E + 4 F) bytes, kept; 2 · C, checkpointed
    (a tower's block            2 · (4 C + 3 C + 2 F))

with width C, N heads and G key/value heads of width E, and F hidden units; a checkpointed part
needs the insides of one block once more. Attention is fused and keeps no scores. Libraries,
fragments and the batch itself come on top.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass

import torch

from e0.network.policy_network import PolicyNetwork
from e0.network.presets import PRESETS, WordShape
from e0.network.siglip import SiglipShape, SiglipTower
from e0.network.transformer import BlockShape
from e0.policy import Policy, PolicySettings

WORDS = 48
ADAPTED = re.compile(r"_blocks\.\d+\.(attention|mlp)\.")
ADAM_BYTES, FROZEN_BYTES, AVERAGE_BYTES = 16, 4, 4


@dataclass(frozen=True)
class Mode:
    """A way to train. `lora_rank` trains adapters of this rank and freezes all blocks."""

    name: str
    freeze_vision: bool = False
    freeze_language: bool = False
    checkpointing: bool = False
    average: bool = False
    lora_rank: int = 0


MODES = [
    Mode("everything"),
    Mode("everything, checkpointing", checkpointing=True),
    Mode("everything, checkpointing, average", checkpointing=True, average=True),
    Mode("vision frozen, checkpointing", freeze_vision=True, checkpointing=True),
    Mode("vision and language frozen", freeze_vision=True, freeze_language=True),
    Mode("LoRA of rank 16, checkpointing", checkpointing=True, lora_rank=16),
]


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    network = make_network(options.preset, options.cameras, options.horizon)
    total = sum(parameter.numel() for parameter in network.parameters())
    print(
        f"{options.preset}: {total / 1e9:.2f} B parameters; batch {options.batch}, "
        f"{options.cameras} cameras, {options.horizon} steps. Derived, not measured.\n"
    )
    print("| mode | trained | weights, gradients, AdamW | activations | together |")
    print("|---|---|---|---|---|")
    for mode in MODES:
        trained, states = state_bytes(network, mode)
        kept = activation_bytes(network, mode, options.batch, options.cameras)
        gigabytes = " | ".join(f"{size / 1e9:.1f} GB" for size in (states, kept, states + kept))
        print(f"| {mode.name} | {trained / 1e9:.2f} B | {gigabytes} |")


def make_network(preset: str, cameras: int, horizon: int) -> PolicyNetwork:
    """The network without numbers."""
    vectors = {} if PRESETS[preset].state == "prompt" else {"state": 8}
    names = tuple(f"camera{index}" for index in range(cameras))
    with torch.device("meta"):
        return Policy(PolicySettings(names, vectors, 7, horizon, preset)).network


def state_bytes(network: PolicyNetwork, mode: Mode) -> tuple[int, int]:
    """Trained parameters, and bytes of weights, gradients, optimizer states and the average."""
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    network.freeze(vision=mode.freeze_vision, language=mode.freeze_language)
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    every, trained = sum(n for n, _ in sizes), sum(n for n, grad in sizes if grad)
    if mode.lora_rank:
        added = mode.lora_rank * sum(
            sum(layer.weight.shape)
            for name, layer in network.named_modules()
            if isinstance(layer, torch.nn.Linear)
            and "_blocks." in name
            and "modulation" not in name
        )
        whole = (network.action_tokens, network.time, network.vector_projections)
        trained = added + sum(p.numel() for part in whole for p in part.parameters())
        return trained, FROZEN_BYTES * every + ADAM_BYTES * trained
    average = AVERAGE_BYTES * trained if mode.average else 0
    return trained, ADAM_BYTES * trained + FROZEN_BYTES * (every - trained) + average


def activation_bytes(network: PolicyNetwork, mode: Mode, batch: int, cameras: int) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    preset = network.preset
    patches = _patches(network)
    prefix_tokens = cameras * patches + (WORDS if isinstance(preset.language, WordShape) else 8)
    vision = 0
    if isinstance(network.tower, SiglipTower) and not (mode.freeze_vision or mode.lora_rank):
        assert isinstance(preset.vision, SiglipShape)
        inside = 2 * (7 * preset.vision.width + 2 * preset.vision.hidden)
        vision = _kept(cameras * patches, inside, preset.vision.width, preset.vision.depth, mode)
    prefix = _stream(prefix_tokens, preset.prefix, preset.depth - 1, mode)
    if mode.freeze_vision and mode.freeze_language:
        prefix = 0
    suffix = _stream(network.layout.count, preset.suffix, preset.depth, mode)
    return batch * (vision + prefix + suffix)


def _patches(network: PolicyNetwork) -> int:
    if isinstance(network.tower, SiglipTower):
        return len(network.tower.positions)
    return 0 if network.tower is None else network.tower.tokens


def _stream(tokens: int, shape: BlockShape, depth: int, mode: Mode) -> int:
    heads = (shape.heads + shape.key_value_heads) * shape.head_width
    inside = 2 * (3 * shape.width + 2 * heads + 4 * shape.hidden)
    return _kept(tokens, inside, shape.width, depth, mode)


def _kept(tokens: int, inside: int, width: int, depth: int, mode: Mode) -> int:
    """Of one sample: the insides of all blocks, or their inputs and the insides of one."""
    if not mode.checkpointing:
        return tokens * depth * inside
    return tokens * (depth * 2 * width + inside)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="paligemma", choices=sorted(PRESETS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--horizon", type=int, default=50)
    return parser


if __name__ == "__main__":
    main()
