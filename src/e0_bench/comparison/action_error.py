"""How far a policy's chunks are from those of demonstrations it was not trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from e0_bench.files import read_json, write_json

SEED = 0
BATCH = 64


@torch.no_grad()  # which also keeps pictures from being augmented
def action_error(checkpoint: Path, dataset: Path, description: str = "") -> dict[str, float]:
    """Mean absolute error over the real steps and dimensions of all chunks, in action units.

    `error` is that of the policy's samples, at its own number of denoising steps and from fixed
    noise; `codes` is what its codebooks alone lose, the floor of every policy that predicts codes;
    `frames` counts the chunks. An offline number: where several actions are right a sampler pays
    for having chosen another one than the expert, and a median does not.
    """
    from lerobot.policies import make_pre_post_processors

    from lerobot_policy_e0 import E0Policy

    policy = E0Policy.from_pretrained(checkpoint)
    preprocess, postprocess = make_pre_post_processors(policy.config, str(checkpoint))
    frames = frames_with_chunks(dataset, policy.model.settings.horizon)
    loader = DataLoader(frames, batch_size=BATCH)
    generator = torch.Generator(policy.config.device or "cpu").manual_seed(SEED)
    tokenizer = policy.model.tokenizer
    policy_errors, code_errors = [], []
    for batch in tqdm(loader, desc=description, unit="batch", leave=False):
        wanted, valid = batch["action"], ~batch["action_is_pad"]
        found = postprocess(policy.predict(preprocess(batch), generator=generator).actions)
        nearest = tokenizer.decode(tokenizer.encode(wanted.to(tokenizer.codebook.device)))
        policy_errors.append(_errors(found, wanted, valid))
        code_errors.append(_errors(nearest.to(wanted.device), wanted, valid))
    return {
        "error": float(torch.cat(policy_errors).mean()),
        "codes": float(torch.cat(code_errors).mean()),
        "frames": len(frames),
    }


def kept_action_error(
    checkpoint: Path, dataset: Path, kept: Path, description: str = ""
) -> dict[str, float]:
    """`action_error` of these weights, from the file where it is kept, or measured and kept."""
    with (checkpoint / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    if kept.exists() and (known := read_json(kept))["weights"] == digest:
        return known["error"]
    error = action_error(checkpoint, dataset, description)
    write_json(kept, {"weights": digest, "error": error})
    return error


def _errors(found: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
    return (found.cpu() - wanted.cpu()).abs()[valid.cpu()]


def frames_with_chunks(dataset: Path, horizon: int) -> Any:
    """A LeRobotDataset on this disk with a chunk of actions from every frame on."""
    from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata

    name = f"local/{dataset.name}"
    fps = LeRobotDatasetMetadata(name, root=dataset).fps
    return LeRobotDataset(
        name, root=dataset, delta_timestamps={"action": [step / fps for step in range(horizon)]}
    )
