"""The usual augmentation of robot policies, crop, rotation and colours, as a processor step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from lerobot.processor import ProcessorStepRegistry
from lerobot.utils.constants import OBS_IMAGES
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from lerobot_policy_e0.viewpoint import ImageStep, cameras_of

KEPT_SHARE = 0.95  # of the height and width, by the crop
ROTATION = 5.0  # degrees to either side
BRIGHTNESS, CONTRAST, SATURATION = 0.3, 0.4, 0.5  # relative, to either side


@dataclass
class StandardAugmentation:
    """What pi-0 and pi-0.5 are trained with (openpi, `preprocess_observation`): a crop of 95 %
    that is resized to the full picture, a rotation of up to 5 degrees, and colours.

    probability: share of the samples; 0 is off. colours_only: cameras that are neither cropped nor
    rotated, such as those on a wrist. Raises ValueError for a probability outside [0, 1].
    """

    probability: float = 0.0
    colours_only: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must lie within [0, 1], got {self.probability}")

    def __call__(self, images: dict[str, Tensor]) -> dict[str, Tensor]:
        """Augmented pictures by camera, float (B, 3, H, W) or (B, T, 3, H, W) within [0, 1].

        Samples are drawn by torch's global generator, all frames of a sample change alike. Raises
        ValueError if `colours_only` names a camera that is not there.
        """
        unknown = set(self.colours_only) - set(images)
        if unknown:
            raise ValueError(
                f"standard augmentation names the cameras {sorted(unknown)}, the batch has "
                f"{sorted(images)}"
            )
        return {name: self._augment(name, pictures) for name, pictures in images.items()}

    def _augment(self, name: str, pictures: Tensor) -> Tensor:
        change = _transform(pictures.shape[-2:], geometry=name not in self.colours_only)
        chosen = torch.rand(len(pictures)) < self.probability
        return torch.stack(
            [change(p) if c else p for p, c in zip(pictures, chosen.tolist(), strict=True)]
        )


def _transform(size: torch.Size, *, geometry: bool) -> v2.Transform:
    colours = v2.ColorJitter(BRIGHTNESS, CONTRAST, SATURATION)
    if not geometry:
        return colours
    crop = v2.RandomCrop([round(KEPT_SHARE * side) for side in size])
    rotate = v2.RandomRotation([-ROTATION, ROTATION], interpolation=InterpolationMode.BILINEAR)
    return v2.Compose([crop, v2.Resize(list(size)), rotate, colours])


@ProcessorStepRegistry.register(name="standard_augmentation")
class StandardAugmentationStep(ImageStep):
    """Augments training batches (`ImageStep.is_training`); others pass as they are.

    settings: `StandardAugmentation`, or its fields as a dictionary.
    """

    def __init__(self, settings: StandardAugmentation | dict[str, Any]) -> None:
        if isinstance(settings, dict):
            settings = StandardAugmentation(**settings)
        self.settings = settings

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        return self.augment(observation) if self.is_training() else observation

    def augment(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The observation with augmented pictures."""
        augmented = self.settings(cameras_of(observation))
        return observation | {f"{OBS_IMAGES}.{name}": p for name, p in augmented.items()}

    def get_config(self) -> dict[str, Any]:
        return {"settings": asdict(self.settings)}
