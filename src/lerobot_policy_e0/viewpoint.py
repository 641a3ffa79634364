"""Viewpoint augmentation as a processor step, for E0 and for any other LeRobot policy:

step = ViewpointAugmentationStep(ViewpointSettings(probability=0.8))
preprocessor.steps.insert(-1, step)  # before normalizing, on the device
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from lerobot.configs import PipelineFeatureType, PolicyFeature
from lerobot.lerobot_types import TransitionKey
from lerobot.processor import ObservationProcessorStep, ProcessorStepRegistry
from lerobot.utils.constants import OBS_IMAGES
from torch import Tensor

from e0.viewpoint import CameraGeometry, Perturbation, PerturbationRange, ViewpointAugmentation

VIEWPOINT = "observation.viewpoint"
NUMBERS = 5  # of `Perturbation.embedding`
DEPTH = "_depth"
FARTHEST_MEDIAN = 100.0  # metres; LeRobot gives millimetres unless told otherwise


@dataclass
class ViewpointSettings:
    """Cameras move on the spheres around what they look at; see `e0.viewpoint`.

    probability: share of the samples that are moved; 0 is off. azimuth, elevation, roll: degrees to
        either side; radius: share of the distance; distribution: uniform or normal.
    cameras: geometry by camera name, the part behind `observation.images.`. skip: cameras that are
        left alone. fill: reflect, constant or noise where nothing was seen.
    light: how much brightness changes across moved pictures, smoothly and as a share, since from
        another place a table's gloss is elsewhere; see `perturb_light`.
    depth: move a camera by its depth where the batch has it; by its plane if false.
    embedding: tell the policy how its cameras moved, in the feature `observation.viewpoint`: 5
        numbers a camera (`Perturbation.embedding`), cameras in the order of their names, all zero
        where it is not known, which in training is a share `embedding_dropout` of the samples, and
        at inference all that do not bring the feature along.
    """

    probability: float = 0.0
    azimuth: float = 15.0
    elevation: float = 10.0
    radius: float = 0.1
    roll: float = 0.0
    distribution: str = "uniform"
    cameras: dict[str, CameraGeometry] = field(default_factory=dict)
    skip: list[str] = field(default_factory=list)
    fill: str = "reflect"
    light: float = 0.0
    depth: bool = True
    embedding: bool = False
    embedding_dropout: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.embedding_dropout <= 1:
            raise ValueError(
                f"embedding_dropout must lie within [0, 1], got {self.embedding_dropout}"
            )
        self.augmentation()

    @property
    def active(self) -> bool:
        return self.probability > 0 or self.embedding

    def augmentation(self) -> ViewpointAugmentation:
        """The augmentation itself. Raises ValueError for impossible settings."""
        bounds = PerturbationRange(
            self.azimuth, self.elevation, self.radius, self.roll, self.distribution
        )
        return ViewpointAugmentation(
            bounds, self.probability, self.cameras, tuple(self.skip), self.fill, self.light
        )


class ImageStep(ObservationProcessorStep):
    """A step that changes observations and none of their names and shapes."""

    def is_training(self) -> bool:
        """Whether the present batch is one to learn from: it holds actions, and gradients are on,
        which LeRobot turns off where it validates and evaluates."""
        return self.transition.get(TransitionKey.ACTION) is not None and torch.is_grad_enabled()

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        return features


@ProcessorStepRegistry.register(name="viewpoint_augmentation")
class ViewpointAugmentationStep(ImageStep):
    """Augments training batches (`ImageStep.is_training`); others pass as they are.

    Runs on whole batches on their device. A camera whose depth is there, as
    `observation.images.NAME_depth` in metres, is moved by depth. settings: `ViewpointSettings`, or
    its fields as a dictionary.
    """

    def __init__(self, settings: ViewpointSettings | dict[str, Any]) -> None:
        if isinstance(settings, dict):
            cameras = settings.get("cameras", {})
            made = {name: CameraGeometry(**geometry) for name, geometry in cameras.items()}
            settings = ViewpointSettings(**{**settings, "cameras": made})
        self.settings = settings
        self._augment = settings.augmentation()

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        if self.is_training():
            return self.augment(observation)
        images = cameras_of(observation)
        if not self.settings.embedding or not images or VIEWPOINT in observation:
            return observation
        picture = next(iter(images.values()))
        return observation | {VIEWPOINT: picture.new_zeros(len(picture), NUMBERS * len(images))}

    def augment(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The observation with moved pictures, and told how they were moved."""
        images = cameras_of(observation)
        if not images:
            return observation
        depths = depths_of(observation, images) if self.settings.depth else None
        moved, movements = self._augment(images, depths)
        told = {VIEWPOINT: self._told(movements)} if self.settings.embedding else {}
        return observation | {f"{OBS_IMAGES}.{name}": x for name, x in moved.items()} | told

    def _told(self, movements: dict[str, Perturbation]) -> Tensor:
        """The movements of all cameras (B, 5 · cameras), zero for samples that are told nothing."""
        told = embedding_of(movements)
        kept = torch.rand(len(told), 1, device=told.device) >= self.settings.embedding_dropout
        return told * kept

    def get_config(self) -> dict[str, Any]:
        return {"settings": asdict(self.settings)}


@ProcessorStepRegistry.register(name="tell_viewpoint")
@dataclass
class TellViewpoint(ImageStep):
    """Tells a policy that its cameras were moved by this much: degrees, degrees, a factor, degrees;
    for one that was trained with `ViewpointSettings.embedding`. unmoved: cameras that stayed where
    they were, such as those on a wrist. Raises ValueError for numbers that no movement has."""

    azimuth: float = 0.0
    elevation: float = 0.0
    radius: float = 1.0
    roll: float = 0.0
    unmoved: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        numbers = (self.azimuth, self.elevation, self.radius, self.roll)
        if not all(map(math.isfinite, numbers)) or self.radius <= 0:
            raise ValueError(
                "a camera moves by finite degrees of azimuth, elevation and roll and a positive "
                f"factor of the radius, got {numbers}"
            )

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        movements = {}
        for name, picture in cameras_of(observation).items():
            still = Perturbation.none(len(picture), picture.device)
            numbers = (self.azimuth, self.elevation, self.radius, self.roll)
            moved = Perturbation(*map(torch.full_like, still, numbers))
            movements[name] = still if name in self.unmoved else moved
        return observation | ({VIEWPOINT: embedding_of(movements)} if movements else {})

    def get_config(self) -> dict[str, Any]:
        return asdict(self)


def embedding_of(movements: dict[str, Perturbation]) -> Tensor:
    """What a policy is told of its cameras (B, 5 · cameras), in the order of their names."""
    return torch.cat([movements[name].embedding() for name in sorted(movements)], dim=-1)


def depth_feature(camera: str) -> str:
    """The dataset's feature that holds this camera's depth."""
    return f"{OBS_IMAGES}.{camera}{DEPTH}"


def cameras_of(observation: dict[str, Any]) -> dict[str, Tensor]:
    """Colour pictures by camera name."""
    start = f"{OBS_IMAGES}."
    return {
        name.removeprefix(start): value
        for name, value in observation.items()
        if name.startswith(start) and not name.endswith(DEPTH)
    }


def depths_of(observation: dict[str, Any], cameras: Iterable[str]) -> dict[str, Tensor]:
    """Depths (..., height, width) in metres of those of these cameras that have any. Raises
    ValueError if they seem to be in millimetres."""
    names = {camera: depth_feature(camera) for camera in cameras}
    depths = {c: observation[name].squeeze(-3) for c, name in names.items() if name in observation}
    for camera, depth in depths.items():
        if float(depth[0].median()) > FARTHEST_MEDIAN:  # one picture tells
            raise ValueError(
                f"half of the depth of camera {camera!r} lies beyond {FARTHEST_MEDIAN:.0f} m, so "
                "it seems to be in millimetres; train with --dataset.depth_output_unit=m"
            )
    return depths
