"""Viewpoint augmentation as a processor step, for E0 and for any other LeRobot policy:

step = ViewpointAugmentationStep(ViewpointSettings(probability=0.8))
preprocessor.steps.insert(-1, step)  # before normalizing, on the device
"""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import torch
from lerobot.configs import PipelineFeatureType, PolicyFeature
from lerobot.lerobot_types import EnvTransition, TransitionKey
from lerobot.processor import ProcessorStep, ProcessorStepRegistry
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
            bounds, self.probability, self.cameras, tuple(self.skip), self.fill
        )


@ProcessorStepRegistry.register(name="viewpoint_augmentation")
class ViewpointAugmentationStep(ProcessorStep):
    """Augments batches that hold actions, which is training; others pass as they are.

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

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        observation = dict(transition.get(TransitionKey.OBSERVATION) or {})
        images, depths = cameras_of(observation)
        if transition.get(TransitionKey.ACTION) is None or not images:
            if self.settings.embedding and images and VIEWPOINT not in observation:
                count = len(next(iter(images.values())))
                device = next(iter(images.values())).device
                observation[VIEWPOINT] = torch.zeros(count, NUMBERS * len(images), device=device)
        else:
            moved, movements = self._augment(images, depths if self.settings.depth else None)
            observation |= {f"{OBS_IMAGES}.{name}": image for name, image in moved.items()}
            if self.settings.embedding:
                observation[VIEWPOINT] = self._told(movements)
        changed = transition.copy()
        changed[TransitionKey.OBSERVATION] = observation  # pyright: ignore[reportGeneralTypeIssues]
        return changed

    def _told(self, movements: dict[str, Perturbation]) -> Tensor:
        """The movements of all cameras (B, 5 · cameras), zero for samples that are told nothing."""
        told = torch.cat([movements[name].embedding() for name in sorted(movements)], dim=-1)
        kept = torch.rand(len(told), 1, device=told.device) >= self.settings.embedding_dropout
        return told * kept

    def get_config(self) -> dict[str, Any]:
        return {"settings": asdict(self.settings)}

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        return features


@ProcessorStepRegistry.register(name="tell_viewpoint")
@dataclass
class TellViewpoint(ProcessorStep):
    """Tells a policy that all its cameras were moved by this much: degrees, degrees, a factor,
    degrees; for one that was trained with `ViewpointSettings.embedding`."""

    azimuth: float = 0.0
    elevation: float = 0.0
    radius: float = 1.0
    roll: float = 0.0

    def __call__(self, transition: EnvTransition) -> EnvTransition:
        observation = dict(transition.get(TransitionKey.OBSERVATION) or {})
        images, _ = cameras_of(observation)
        if images:
            picture = next(iter(images.values()))
            movement = Perturbation(
                *(torch.full((len(picture),), n, device=picture.device) for n in astuple(self))
            )
            observation[VIEWPOINT] = movement.embedding().repeat(1, len(images))
        changed = transition.copy()
        changed[TransitionKey.OBSERVATION] = observation  # pyright: ignore[reportGeneralTypeIssues]
        return changed

    def get_config(self) -> dict[str, Any]:
        return asdict(self)

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        return features


def depth_feature(camera: str) -> str:
    """The dataset's feature that holds this camera's depth."""
    return f"{OBS_IMAGES}.{camera}{DEPTH}"


def cameras_of(observation: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Colour pictures and depths (..., height, width) by camera name."""
    start = f"{OBS_IMAGES}."
    found = {
        name.removeprefix(start): value
        for name, value in observation.items()
        if name.startswith(start)
    }
    images = {name: image for name, image in found.items() if not name.endswith(DEPTH)}
    depths = {name: found[name + DEPTH].squeeze(-3) for name in images if name + DEPTH in found}
    for name, depth in depths.items():
        if float(depth.median()) > FARTHEST_MEDIAN:
            raise ValueError(
                f"half of the depth of camera {name!r} lies beyond {FARTHEST_MEDIAN:.0f} m, so it "
                "seems to be in millimetres; train with --dataset.depth_output_unit=m"
            )
    return images, depths
