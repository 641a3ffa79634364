"""What a moved camera takes from a policy: the picture's geometry, or the rest of its looks?

    python benchmarks/viewpoint_gap.py outputs/viewpoint_pretrained_cpu --out results.json

For every policy of an `e0 compare`, the error of its chunks on held-out demonstrations: seen by the
home camera (`home`); on the same pictures warped by the table's plane (`warped`); on the same
episodes seen by a camera that was really moved (`moved`); and on these pictures with the light of
the warped ones (`relit`). Where `warped` is near `home` and `moved` is not, the policy has learned
the warp and lacks what the warp leaves out; where `relit` is near `warped`, that is something slow:
light, or what stands above the plane and is warped to a wrong place.

The error: how far the chunk's translations, added up, end from the expert's, in millimetres on the
table; the mean over the episodes' first frames with its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lerobot.policies import make_pre_post_processors
from scipy.stats import bootstrap
from torch import Tensor
from tqdm import tqdm

from e0.policy import PolicySettings
from e0.viewpoint import CameraGeometry, Perturbation, intrinsics, perturb_viewpoint
from e0_bench.comparison.action_error import frames_with_chunks
from e0_bench.comparison.recipe import Recipe
from e0_bench.files import write_json
from e0_bench.viewpoint.tables import gap_table
from e0_experts.cameras import CameraShift
from e0_maniskill.demonstrations import ManiSkillSettings
from lerobot_policy_e0 import E0Policy
from lerobot_policy_e0.collection import CollectionRequest, collect_dataset

AZIMUTHS = (-15.0, 15.0)  # degrees
PICTURE = "observation.images.base_camera"
NEIGHBOURHOOD = 25  # pixels; light that changes within fewer is left as it is
DARKEST = 0.02  # keeps black from being divided by
STEP = 100.0  # millimetres of an action of 1; see `ManiSkillEnv`


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", type=Path, help="the output directory of `e0 compare`")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    options = parser.parse_args(arguments)
    recipe = json.loads((options.comparison / "recipe.json").read_text())
    horizon = recipe["training"].get("policy", {}).get("horizon", PolicySettings.horizon)
    home = first_frames(options.comparison / "held_out", horizon)
    scenes = all_pictures(recipe, home, horizon)
    rows: list[dict[str, Any]] = []
    labels = [training.label for training in Recipe(**recipe).trainings]
    for label in tqdm(labels, desc="Policies", unit="policy"):
        last = options.comparison / "train" / label / "checkpoints" / "last" / "pretrained_model"
        if not last.exists():
            print(f"{label} was not trained and is left out")
            continue
        for (kind, azimuth), pictures in scenes.items():
            rows += [
                {"policy": label, "pictures": kind, "azimuth": azimuth, "task": task}
                | mean_with_interval(values)
                for task, values in chunk_errors(last, home, pictures).items()
            ]
    write_json(options.out, {"viewpoint_gap": rows})
    print(gap_table(rows))


def first_frames(dataset: Path, horizon: int) -> list[dict[str, Any]]:
    """The first frame of every episode with the chunk that the expert begins with."""
    frames = frames_with_chunks(dataset, horizon)
    return [frames[start] for start in frames.meta.episodes["dataset_from_index"]]


def all_pictures(
    recipe: dict[str, Any], home: list[dict[str, Any]], horizon: int
) -> dict[tuple[str, float], list[Tensor]]:
    """What the policies are shown in place of the first frames, by kind and azimuth."""
    geometry = camera_geometry(recipe)
    scenes = {("home", 0.0): [frame[PICTURE] for frame in home]}
    for azimuth in AZIMUTHS:
        with tempfile.TemporaryDirectory() as directory:
            collect_dataset(moved_request(recipe, azimuth), Path(directory) / "moved")
            moved = first_frames(Path(directory) / "moved", horizon)
        for before, after in zip(home, moved, strict=True):
            if before["task"] != after["task"] or not before["action"].equal(after["action"]):
                raise ValueError("the held-out demonstrations were not collected by this simulator")
        scenes["moved", azimuth] = [frame[PICTURE] for frame in moved]
        scenes["warped", azimuth] = [warp(frame[PICTURE], geometry, azimuth) for frame in home]
        scenes["relit", azimuth] = [
            relight(picture, model)
            for picture, model in zip(
                scenes["moved", azimuth], scenes["warped", azimuth], strict=True
            )
        ]
    return scenes


def camera_geometry(recipe: dict[str, Any]) -> CameraGeometry:
    """Of the base camera, as the first policy that is trained with moved cameras has it."""
    for policy in recipe["policies"].values():
        cameras = policy.get("viewpoint_augmentation", {}).get("cameras", {})
        if "base_camera" in cameras:
            return CameraGeometry(**cameras["base_camera"])
    raise ValueError(
        "no policy of this comparison has viewpoint_augmentation.cameras.base_camera, so how to "
        "warp its pictures is not known"
    )


def moved_request(recipe: dict[str, Any], azimuth: float) -> CollectionRequest:
    """The held-out demonstrations, seen by a camera that was moved."""
    settings = ManiSkillSettings(**recipe["environment"], camera_shift=CameraShift(azimuth=azimuth))
    held_out = recipe["held_out"]
    return CollectionRequest(
        tuple(recipe["dataset"]["tasks"]), held_out["episodes"], held_out["seed"], settings
    )


def warp(picture: Tensor, geometry: CameraGeometry, azimuth: float) -> Tensor:
    """A picture (3, height, width) as the table's plane moves it."""
    height, width = picture.shape[-2:]
    moved, _ = perturb_viewpoint(
        picture[None],
        intrinsics(geometry.field_of_view, width, height),
        Perturbation.none(1)._replace(azimuth=torch.tensor([azimuth])),
        look_at_distance=geometry.look_at_distance,
        elevation=geometry.elevation,
        plane=geometry.plane,
    )
    return moved[0]


def relight(picture: Tensor, model: Tensor) -> Tensor:
    """A picture (3, height, width) with the other's brightness, channel by channel, wherever that
    changes slowly."""
    wanted, given = (average_pool(p) + DARKEST for p in (model, picture))
    return (picture * wanted / given).clamp(0, 1)


def average_pool(picture: Tensor) -> Tensor:
    """Means (3, height, width) of the `NEIGHBOURHOOD` around each pixel."""
    around = F.pad(picture[None], (NEIGHBOURHOOD // 2,) * 4, mode="reflect")
    return F.avg_pool2d(around, NEIGHBOURHOOD, stride=1)[0]


@torch.no_grad()
def chunk_errors(
    checkpoint: Path, frames: list[dict[str, Any]], pictures: list[Tensor]
) -> dict[str, list[float]]:
    """Millimetres by instruction, one for each frame, which is shown with another picture."""
    policy = E0Policy.from_pretrained(checkpoint)
    preprocess, postprocess = make_pre_post_processors(policy.config, str(checkpoint))
    generator = torch.Generator().manual_seed(0)
    errors: dict[str, list[float]] = {}
    for frame, picture in zip(frames, pictures, strict=True):
        wanted, valid = frame["action"], ~frame["action_is_pad"]
        seen = {name: value for name, value in frame.items() if not name.startswith("action")}
        batch = preprocess(seen | {PICTURE: picture})
        found = postprocess(policy.predict(batch, generator=generator).actions)[0]
        miss = ((found - wanted) * valid[:, None])[:, :2].sum(0).norm()
        errors.setdefault(frame["task"], []).append(STEP * float(miss))
    return errors


def mean_with_interval(values: list[float]) -> dict[str, float]:
    interval = bootstrap((values,), np.mean, rng=0, method="percentile").confidence_interval
    mean, low, high = (round(float(v), 1) for v in (np.mean(values), *interval))
    return {"n": len(values), "mean": mean, "low": low, "high": high}


if __name__ == "__main__":
    main()
