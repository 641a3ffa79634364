"""Which pretrained vision model a policy sees with: `--policy.vision`.

Three families of the library transformers; a checkpoint keeps what is told here as JSON text, so
that it needs neither the hub nor the directory that the model came from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lerobot_policy_e0.defaults import fitted

Colour = tuple[float, ...]

USUAL_SIDE = 224  # pixels; DINOv2 was made for 518, which is five times the work
SQUARE = (3, 1, 1)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SYMMETRIC = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class VisionError(ValueError):
    """A vision model that is unknown, cannot be had, or does not fit."""


@dataclass(frozen=True)
class Family:
    """How a kind of model is used.

    normalization: mean and deviation of pixels where a model's own are not told. left_out: settings
    that leave out what its last hidden states do not need, since parameters without a gradient
    stop data-parallel training. unused: tensors of a file that are therefore not looked at.
    """

    normalization: tuple[Colour, Colour]
    left_out: dict[str, Any] = field(default_factory=dict)
    unused: str = r"classifier"


FAMILIES = {
    "resnet": Family(IMAGENET),
    "dinov2": Family(IMAGENET, {"use_mask_token": False}, r"mask_token|classifier"),
    "siglip_vision_model": Family(
        SYMMETRIC, {"vision_use_head": False}, r"text_model|\bhead\b|logit_|classifier"
    ),
}
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": (
        "microsoft/resnet-18",
        {
            "model_type": "resnet",
            "embedding_size": 64,
            "hidden_sizes": [64, 128, 256, 512],
            "depths": [2, 2, 2, 2],
            "layer_type": "basic",
        },
    ),
    "dinov2_small": (
        "facebook/dinov2-small",
        {
            "model_type": "dinov2",
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "image_size": 518,
            "patch_size": 14,
        },
    ),
    "siglip_base": (
        "google/siglip-base-patch16-224",
        {
            "model_type": "siglip_vision_model",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": 16,
        },
    ),
}
"""Short names: the repository of the hub, and what random weights are made for without it."""


@dataclass(frozen=True)
class VisionModel:
    """A model and how pictures are brought to it.

    name, weights: as they were asked for. config: of the library's model, with its `model_type`.
    mean, std: of each colour in [0, 1], which the model's pixels are normalized with.
    """

    name: str
    weights: str
    config: dict[str, Any]
    mean: Colour
    std: Colour

    @classmethod
    def from_json(cls, text: str) -> VisionModel:
        """What `to_json` wrote. Raises VisionError for anything else."""
        try:
            return cls(**json.loads(text))
        except (json.JSONDecodeError, TypeError) as error:
            raise VisionError(
                f"vision_config is set by the policy and never by hand; cannot read it: {error}"
            ) from error

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def family(self) -> Family:
        return FAMILIES[self.config["model_type"]]

    def picture_size(
        self, asked: tuple[int, int] | None, pictures: Iterable[tuple[int, ...]]
    ) -> tuple[int, int]:
        """Height and width that the model sees.

        If none is asked for: the one that it was made for, where it takes no other; else 224 pixels
        on the longer side, in the shape of the cameras (channels, height, width), or square where
        they differ. Raises VisionError for a size that the model cannot take.
        """
        side, patch = self.config.get("image_size", USUAL_SIDE), self.config.get("patch_size", 1)
        if self.config["model_type"] == "siglip_vision_model":  # a position for every patch
            if asked not in (None, (side, side)):
                raise VisionError(f"{self.name} needs image_size=[{side},{side}], got {asked}")
            return side, side
        if asked is None:
            side = min(side, USUAL_SIDE)
            return fitted(pictures, side, patch) or fitted([SQUARE], side, patch) or (side, side)
        if asked[0] % patch or asked[1] % patch:
            raise VisionError(
                f"{self.name} cuts pictures into patches of {patch} pixels, so image_size must be "
                f"multiples of that, got {asked}"
            )
        return asked


def find_vision_model(name: str, weights: str) -> VisionModel:
    """What a short name, a directory of transformers or a hub id stands for.

    Raises VisionError if it is none of them, cannot be had or read, is of a family that is not
    known, or if transformers is not installed.
    """
    library = transformers()
    if weights == "random" and name in NAMED:
        config = library.AutoConfig.for_model(**NAMED[name][1])
        directory = None
    else:
        directory = vision_directory(name, configuration_only=weights == "random")
        try:
            config = library.AutoConfig.from_pretrained(directory, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise VisionError(
                f"vision={name!r}: {directory} holds no configuration of a model that the library "
                f"transformers knows: {error}"
            ) from error
    config = getattr(config, "vision_config", config)  # of a model that reads text too
    if config.model_type not in FAMILIES:
        raise VisionError(
            f"vision={name!r} is a {config.model_type!r} model; a policy can see with "
            f"{', '.join(sorted(FAMILIES))}"
        )
    family = FAMILIES[config.model_type]
    mean, std = _normalization(directory, family)
    general = library.PretrainedConfig().to_dict()
    own = {key: value for key, value in config.to_dict().items() if key not in general}
    own |= {"model_type": config.model_type} | family.left_out
    return VisionModel(name, weights, own, mean, std)


def vision_directory(name: str, configuration_only: bool = False) -> Path:
    """Where a model's files are on this disk, after a download where they are on the hub.

    Raises VisionError saying what to do if there are none.
    """
    if Path(name).is_dir():
        return Path(name)
    repository = NAMED[name][0] if name in NAMED else name
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise VisionError(
            f"vision={name!r} is neither {', '.join(NAMED)}, nor a directory, nor a hub id "
            "(owner/name)"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["config.json", "preprocessor_config.json"]
    if not configuration_only:
        wanted += ["*.safetensors", "*.safetensors.index.json"]
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise VisionError(
            f"vision={name!r}: the hub did not give {repository} ({reason}). Where there is a "
            f"network, `hf download {repository} --local-dir DIRECTORY`, and give "
            "--policy.vision=DIRECTORY; without pretrained weights: --policy.vision_weights=random"
        ) from error


def transformers() -> Any:
    """The library, which only vision models need. Raises VisionError if it is not installed."""
    try:
        import transformers as library
    except ImportError as error:
        raise VisionError(
            "--policy.vision needs the library `transformers`: "
            "pip install 'lerobot_policy_e0[paligemma]'"
        ) from error
    return library


def _normalization(directory: Path | None, family: Family) -> tuple[Colour, Colour]:
    """Mean and deviation of pixels that the model was made for."""
    file = None if directory is None else directory / "preprocessor_config.json"
    if file is None or not file.is_file():
        return family.normalization
    try:
        told = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise VisionError(f"{file} cannot be read: {error}") from error
    if not told.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = family.normalization
    return tuple(told.get("image_mean", mean)), tuple(told.get("image_std", std))
