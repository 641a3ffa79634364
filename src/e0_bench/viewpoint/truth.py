"""Warped pictures against those of cameras that really moved in a simulator.

One scene is seen by many cameras at once: the home camera and one for every shift. Pictures are
rendered with four samples a pixel, because the renderer's noise in the table's grain would count
as an error of the geometry.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from e0.viewpoint import Perturbation, Plane, intrinsics, perturb_viewpoint
from e0_maniskill import Camera, CameraShift, ManiSkillEnv, default_cameras, find_task
from e0_maniskill.experts import Expert

SIZE = 128
SAMPLES = 2  # per pixel and axis
METHODS = ("home", "facing plane", "table plane", "depth")
HOME = "home"
SHIFTS = [
    *(CameraShift(azimuth=angle) for angle in (-30, -20, -15, -10, -5, 5, 10, 15, 20, 30)),
    *(CameraShift(elevation=angle) for angle in (-10, -5, 5, 10)),
    *(CameraShift(radius=factor) for factor in (0.8, 0.9, 1.1, 1.2)),
    *(CameraShift(roll=angle) for angle in (-10, 10)),
    CameraShift(-10, 8, 0.9, -8),
    CameraShift(10, -5, 1.1, 5),
]


@dataclass(frozen=True)
class View:
    """What one camera sees: picture (3, H, W) in [0, 1], depth (H, W) in metres."""

    camera: Camera
    picture: Tensor
    depth: Tensor

    @property
    def elevation(self) -> float:
        """Degrees above the horizontal."""
        x, y, z = np.subtract(self.camera.eye, self.camera.target)
        return math.degrees(math.atan2(z, math.hypot(x, y)))

    @property
    def distance(self) -> float:
        """Metres to the point that is looked at."""
        return math.dist(self.camera.eye, self.camera.target)


def views(task: str, seed: int, steps: int) -> dict[str, View]:
    """The scene of this seed after so many steps of the expert, from home and from every shift."""
    home = default_cameras(find_task(task))["base_camera"].resized(SIZE * SAMPLES)
    cameras = {HOME: home} | {str(i): home.moved(shift) for i, shift in enumerate(SHIFTS)}
    env = ManiSkillEnv(task, cameras=cameras, depth=True)
    try:
        observation, _ = env.reset(seed=seed)
        expert = Expert(env)
        for _ in range(steps):
            observation, *_ = env.step(expert.act())
        return {name: _view(camera, name, observation) for name, camera in cameras.items()}
    finally:
        env.close()


def _view(camera: Camera, name: str, observation: dict[str, Any]) -> View:
    picture = torch.from_numpy(observation["pixels"][name]).permute(2, 0, 1) / 255
    millimetres = observation["depth"][name][SAMPLES // 2 :: SAMPLES, SAMPLES // 2 :: SAMPLES]
    depth = torch.from_numpy(millimetres.astype(np.float32)) / 1000
    return View(camera, F.avg_pool2d(picture, SAMPLES), depth)


def warped(home: View, shift: CameraShift) -> tuple[dict[str, Tensor], Tensor]:
    """The picture (3, H, W) that each method makes of the home view, and the pixels (H, W) that the
    home camera has seen."""
    perturbation = Perturbation(*(torch.tensor([float(x)]) for x in asdict(shift).values()))
    lens = intrinsics(math.degrees(home.camera.field_of_view), SIZE, SIZE)
    table = Plane(offset=-home.camera.target[2])

    def move(depth: Tensor | None, plane: Plane | None) -> tuple[Tensor, Tensor]:
        images, valid = perturb_viewpoint(
            home.picture[None],
            lens,
            perturbation,
            depth,
            home.distance,
            elevation=home.elevation,
            plane=plane,
        )
        return images[0], valid[0]

    by_depth, seen = move(home.depth[None], None)
    pictures = (home.picture, move(None, None)[0], move(None, table)[0], by_depth)
    return dict(zip(METHODS, pictures, strict=True)), seen


def measure(task: str, seed: int, steps: int) -> Iterator[dict[str, Any]]:
    """One row for every shift and method. All methods are judged on the same pixels: those whose
    surface the home camera has seen."""
    seen_from = views(task, seed, steps)
    for index, shift in enumerate(SHIFTS):
        truth = seen_from[str(index)].picture
        pictures, seen = warped(seen_from[HOME], shift)
        for method, picture in pictures.items():
            yield {
                "task": task,
                "seed": seed,
                "step": steps,
                "shift": list(asdict(shift).values()),
                "method": method,
                "psnr": round(noise_ratio(picture, truth, seen), 3),
                "ssim": round(similarity(picture, truth, seen), 4),
                "seen": round(seen.float().mean().item(), 4),
            }


def noise_ratio(picture: Tensor, truth: Tensor, where: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures (3, H, W) over some pixels (H, W)."""
    error = (picture - truth).square().mean(0)[where].mean().item()
    return -10 * math.log10(max(error, 1e-10))


def similarity(picture: Tensor, truth: Tensor, where: Tensor) -> float:
    """Mean structural similarity over some pixels (Wang et al., 2004; kornia's, window of 11)."""
    from kornia.metrics import ssim

    return ssim(picture[None], truth[None], window_size=11)[0].mean(0)[where].mean().item()
