"""Spherical viewpoint perturbation: what a moved camera would have seen.

perturbation = PerturbationRange(azimuth=15, elevation=5, radius=0.1).draw(len(images))
moved = perturb_viewpoint(images, intrinsics(60, 224, 224), perturbation, look_at_distance=0.7)
"""

from e0.viewpoint.augmentation import CameraGeometry, ViewpointAugmentation
from e0.viewpoint.geometry import (
    Perturbation,
    PerturbationRange,
    SphericalCamera,
    from_extrinsics,
    intrinsics,
    mujoco_pose,
    relative_motion,
    sapien_pose,
    to_extrinsics,
)
from e0.viewpoint.light import perturb_light
from e0.viewpoint.warp import MovedImages, Plane, perturb_viewpoint

__all__ = [
    "CameraGeometry",
    "MovedImages",
    "Perturbation",
    "PerturbationRange",
    "Plane",
    "SphericalCamera",
    "ViewpointAugmentation",
    "from_extrinsics",
    "intrinsics",
    "mujoco_pose",
    "perturb_light",
    "perturb_viewpoint",
    "relative_motion",
    "sapien_pose",
    "to_extrinsics",
]
