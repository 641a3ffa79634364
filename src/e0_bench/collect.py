"""Demonstrations by scripted experts: `e0 collect`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from e0_bench.statistics import format_rate
from e0_maniskill.cameras import CameraShift
from e0_maniskill.collection import CollectionSettings, expert_success, numbers_per_task
from lerobot_policy_e0.collection import CollectionRequest, collect_dataset

OF_PICTURES = ("image_size", "hand_camera", "camera_shift", "depth", "videos")


@dataclass(frozen=True)
class CollectCommand:
    """What to collect, and how."""

    output: Path = Path("outputs/demonstrations")
    """Directory of the dataset; must not exist yet."""
    tasks: tuple[str, ...] = ("PushCube-v1", "PickCube-v1")
    episodes: tuple[int, ...] = (100,)
    """Successful episodes: one number for every task, or one for each."""
    seed: int = 100_000
    """First seed of every task."""
    action_noise: float = 0.1
    """Deviation of the disturbance of executed actions, for diversity; labels stay clean."""
    hold_steps: int = 4
    """Steps recorded after each success, to show how small errors near the goal are corrected."""
    image_size: int | None = None
    """Pixels; the tasks' own size (128) if not given."""
    hand_camera: bool = False
    camera_shift: str | None = None
    """azimuth,elevation,radius,roll of the fixed cameras on the spheres around their targets, as in
    15,5,1.1,0: degrees, degrees, a factor, degrees."""
    depth: bool = False
    """Store the fixed cameras' depth too, for viewpoint augmentation."""
    proprioception: str = "full"
    """full: joints and tool pose (16 numbers). compact: gripper width and tool position (4)."""
    state_only: bool = False
    """No images; needs no Vulkan driver."""
    videos: bool = False
    """Store images as video."""
    workers: int = 2
    dry_run: bool = False
    """Write nothing and take no pictures: print how often the experts succeed on these seeds under
    this disturbance."""


def run_collect(command: CollectCommand) -> None:
    """Collect the dataset, or with `dry_run` only try the experts.

    Raises ValueError for settings of pictures where there are none, and what `collect_dataset` and
    `expert_success` raise.
    """
    if command.state_only:
        _refuse_pictures(command)
    if command.dry_run:
        _dry_run(command)
        return
    shift = command.camera_shift
    settings = CollectionSettings(
        camera_shift=None if shift is None else CameraShift.parse(shift),
        image_size=command.image_size,
        hand_camera=command.hand_camera,
        depth=command.depth,
        proprioception=command.proprioception,  # pyright: ignore[reportArgumentType]
        state_only=command.state_only,
        action_noise=command.action_noise,
        hold_steps=command.hold_steps,
    )
    request = CollectionRequest(command.tasks, command.episodes, command.seed, settings)
    record = collect_dataset(
        request, command.output, workers=command.workers, use_videos=command.videos
    )
    for task, part in record["collected"].items():
        print(f"{task}: {len(part['seeds'])} episodes from {part['tries']} tries")
    print(f"Dataset: {command.output}")


def _refuse_pictures(command: CollectCommand) -> None:
    usual = {field.name: field.default for field in fields(CollectCommand)}
    for name in OF_PICTURES:
        if getattr(command, name) != usual[name]:
            flag = name.replace("_", "-")
            raise ValueError(
                f"--{flag} is for pictures, and --state-only takes none; leave one out"
            )


def _dry_run(command: CollectCommand) -> None:
    """Print the experts' success over the first seeds, a line per task."""
    for task, count in numbers_per_task(command.episodes, command.tasks).items():
        seeds = range(command.seed, command.seed + count)
        outcome = expert_success(
            task, seeds, workers=command.workers, action_noise=command.action_noise
        )
        failed = [seed for seed, success in outcome.items() if not success]
        print(f"{task}: {format_rate(len(outcome) - len(failed), len(outcome))}, failed: {failed}")
