"""Any LeRobot policy from its checkpoint: also an adapter, also from the hub."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import make_pre_post_processors
from lerobot.policies.factory import get_policy_class
from lerobot.utils.import_utils import register_third_party_plugins

from e0.precision import require_dtype
from lerobot_policy_e0.checkpoints import CheckpointError
from lerobot_policy_e0.modeling_e0 import E0Policy

REQUIRED = ("config.json", "policy_preprocessor.json", "policy_postprocessor.json")
WEIGHTS, ADAPTER = ("model.safetensors",), ("adapter_model.safetensors", "adapter_config.json")
NOT_USED = ("train_config.json",)  # LeRobot keeps it beside what evaluation reads


def read_config(directory: Path) -> PreTrainedConfig:
    """LeRobot's configuration of a checkpoint.

    Raises CheckpointError if its policy type is unknown or its configuration unreadable.
    """
    register_third_party_plugins()
    try:
        return PreTrainedConfig.from_pretrained(directory, local_files_only=True)
    except (draccus.ParsingError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{directory / 'config.json'} is not the configuration of a policy that is installed "
            f"here: {error.__cause__ or error}"
        ) from error


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy that acts, with LeRobot's processors before and after it, on `device`."""

    policy: Any
    preprocess: Any
    postprocess: Any
    device: torch.device


def load_with_processors(directory: Path, config: Any) -> LoadedPolicy:
    """The policy of a checkpoint as `load_policy` gives it, and its processors, on the device of
    this configuration, or the CPU if it names none."""
    device = config.device or "cpu"
    with redirect_stdout(io.StringIO()):
        policy = load_policy(directory, config)
    policy.eval()
    preprocess, postprocess = make_pre_post_processors(
        policy.config,
        str(directory),
        preprocessor_overrides={"device_processor": {"device": device}},
    )
    return LoadedPolicy(policy, preprocess, postprocess, torch.device(device))


def load_policy(directory: Path, config: PreTrainedConfig) -> Any:
    """The policy of a checkpoint; one that is an adapter is merged into the policy it adapts.

    E0's are brought to the form that acts before they go to the device, which then need not hold
    another one."""
    kind = get_policy_class(config.type)
    if kind is not E0Policy:
        return _load(kind, directory, config)
    device, config.device = config.device, "cpu"
    if getattr(config, "dtype", None) == "bfloat16":
        require_dtype(torch.bfloat16, torch.device(device or "cpu"))
    policy = _load(kind, directory, config)
    policy.only_act()
    config.device = policy.config.device = device
    return policy.to(device)


def _load(kind: Any, directory: Path, config: PreTrainedConfig) -> Any:
    if not config.use_peft:
        return kind.from_pretrained(directory, config=config)
    from peft import PeftModel

    policy = kind.from_pretrained(_adapted(directory), config=config)
    return PeftModel.from_pretrained(policy, str(directory)).merge_and_unload()


def _adapted(directory: Path) -> Path:
    """Where the policy is that an adapter adapts."""
    name = json.loads((directory / ADAPTER[1]).read_text()).get("base_model_name_or_path")
    if not name:
        raise CheckpointError(f"{directory / ADAPTER[1]} does not name what it adapts")
    return on_this_disk(Path(name))


def on_this_disk(place: Path) -> Path:
    """A directory as it is; what looks like a hub id (NAME/POLICY) is fetched."""
    if place.exists() or place.is_absolute() or len(place.parts) != 2:
        return place
    from httpx import HTTPError
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(place)))
    except (HTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{place} is no directory here, and the hub gives no policy of this name: {error}"
        ) from error


def file_hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint that its policy's behaviour depends on, by name; of
    what an adapter adapts as `base/NAME`. Raises CheckpointError for what is no checkpoint."""
    adapts = (directory / ADAPTER[1]).is_file()
    required = (*REQUIRED, *(ADAPTER if adapts else WEIGHTS))
    missing = [name for name in required if not (directory / name).is_file()]
    if missing:
        inside = directory / "pretrained_model"
        hint = f"; did you mean {inside}?" if inside.is_dir() else ""
        state = f"lacks {', '.join(missing)}" if directory.is_dir() else "does not exist"
        raise CheckpointError(
            f"{directory} is not a LeRobot checkpoint directory: it {state}{hint}"
        )
    used = [
        path
        for path in sorted(directory.iterdir())
        if path.suffix in (".json", ".safetensors") and path.name not in NOT_USED
    ]
    base = file_hashes(_adapted(directory)) if adapts else {}
    return {path.name: _sha256(path) for path in used} | {f"base/{n}": h for n, h in base.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
