"""Demonstrations by scripted experts: `e0 collect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tqdm import tqdm

from e0_bench.correcting import policy_lead_in
from e0_bench.statistics import format_rate
from e0_experts.cameras import CameraShift
from e0_experts.collection import CollectionSettings, numbers_per_task, try_experts
from e0_experts.selection import Outcome
from e0_system.workers import Processes
from lerobot_policy_e0.collection import CollectionRequest, collect_dataset

if TYPE_CHECKING:
    from e0_libero.demonstrations import LiberoSettings
    from e0_maniskill.demonstrations import ManiSkillSettings

OF_PICTURES = ("image_size", "hand_camera", "camera_shift", "depth", "videos")
OF_MANISKILL = ("hand_camera", "depth", "proprioception", "state_only", "correct")
OF_LIBERO = ("official_states",)
TASKS = {"maniskill": ("PushCube-v1", "PickCube-v1"), "libero": ("libero_object",)}


@dataclass(frozen=True)
class CollectCommand:
    """What to collect, and how."""

    output: Path = Path("outputs/demonstrations")
    """Directory of the dataset; must not exist yet."""
    env: Literal["maniskill", "libero"] = "maniskill"
    tasks: tuple[str, ...] = ()
    """PushCube-v1 and PickCube-v1, or of LIBERO the suite libero_object, if not given. A suite
    stands for its ten tasks; libero_goal/3 is one."""
    episodes: tuple[int, ...] = (100,)
    """Successful episodes: one number for every task, or one for each."""
    seed: int = 100_000
    """First seed of every task."""
    action_noise: float = 0.1
    """Deviation of the disturbance of executed actions, for diversity; labels stay clean."""
    hold_steps: int = 4
    """Steps recorded after each success, to show how small errors near the goal are corrected."""
    image_size: int | None = None
    """Pixels; if not given, the size that is usual there: 128, or of LIBERO 256."""
    hand_camera: bool = False
    """LIBERO's pictures are always of both cameras."""
    camera_shift: str | None = None
    """azimuth,elevation,radius,roll of the fixed cameras on the spheres around their targets, as in
    15,5,1.1,0: degrees, degrees, a factor, degrees. Of LIBERO the agent view."""
    depth: bool = False
    """Store the fixed cameras' depth too, for viewpoint augmentation."""
    proprioception: str = "full"
    """full: joints and tool pose (16 numbers). compact: gripper width and tool position (4)."""
    state_only: bool = False
    """No images; needs no Vulkan driver."""
    official_states: bool = False
    """Begin at LIBERO's official initial states, which evaluation uses, k at seed k: to measure the
    experts. What shall be evaluated there must not be trained with them."""
    videos: bool = False
    """Store images as video."""
    correct: Path | None = None
    """A checkpoint that begins every episode; the expert takes over at a step drawn from the seed,
    and what it does from there is recorded (DAgger). Of LIBERO the experts cannot take over."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = Processes()
    dry_run: bool = False
    """Write nothing and take no pictures (but for a policy to correct): print how often the experts
    succeed on these seeds under this disturbance."""


def run_collect(command: CollectCommand) -> None:
    """Collect the dataset, or with `dry_run` only try the experts.

    Raises ValueError for settings that the environment does not have, or of pictures where there
    are none, and what `collect_dataset` and `try_experts` raise.
    """
    others = OF_MANISKILL if command.env == "libero" else OF_LIBERO
    _refuse(command, others, f"there is no --{{flag}} with --env {command.env}; leave it out")
    if command.state_only:
        message = "--{flag} is for pictures, and --state-only takes none; leave one out"
        _refuse(command, OF_PICTURES, message)
    settings: Any = _libero(command) if command.env == "libero" else _maniskill(command)
    tasks = settings.task_names(command.tasks or TASKS[command.env])
    if command.correct is not None:
        settings = replace(settings, lead_in=policy_lead_in(command.correct))
    if command.dry_run:
        _dry_run(command, settings, tasks)
        return
    request = CollectionRequest(tuple(tasks), command.episodes, command.seed, settings)
    record = collect_dataset(
        request, command.output, processes=command.processes, use_videos=command.videos
    )
    for task, part in record["collected"].items():
        print(f"{task}: {len(part['seeds'])} episodes from {part['tries']} tries")
    print(f"Dataset: {command.output}")


def _refuse(command: CollectCommand, names: Sequence[str], message: str) -> None:
    usual = {field.name: field.default for field in fields(CollectCommand)}
    for name in names:
        if getattr(command, name) != usual[name]:
            raise ValueError(message.format(flag=name.replace("_", "-")))


def _maniskill(command: CollectCommand) -> ManiSkillSettings:
    from e0_maniskill.demonstrations import ManiSkillSettings

    if command.dry_run and command.correct is None:
        return ManiSkillSettings(state_only=True, action_noise=command.action_noise)
    return ManiSkillSettings(
        camera_shift=_shift(command),
        image_size=command.image_size,
        hand_camera=command.hand_camera,
        depth=command.depth,
        proprioception=command.proprioception,  # pyright: ignore[reportArgumentType]
        state_only=command.state_only,
        action_noise=command.action_noise,
        hold_steps=command.hold_steps,
    )


def _libero(command: CollectCommand) -> LiberoSettings:
    from e0_libero.assets import wire

    wire()  # or say what is not installed
    from e0_libero.demonstrations import PUBLISHED_SIZE, LiberoSettings
    from e0_libero.tasks import INITIAL_STATES

    if command.official_states and max(command.episodes) > INITIAL_STATES:
        raise ValueError(
            f"a task has {INITIAL_STATES} official initial states: give --episodes of at most that"
        )
    size = PUBLISHED_SIZE if command.image_size is None else command.image_size
    return LiberoSettings(
        image_size=None if command.dry_run else size,
        camera_shift=_shift(command),
        official_states=command.official_states,
        action_noise=command.action_noise,
        hold_steps=command.hold_steps,
    )


def _shift(command: CollectCommand) -> CameraShift | None:
    return None if command.camera_shift is None else CameraShift.parse(command.camera_shift)


def _dry_run(
    command: CollectCommand, settings: CollectionSettings[Any], tasks: Sequence[str]
) -> None:
    """Print the experts' success over the first seeds, a line per task, and per suite."""
    counts = numbers_per_task(command.episodes, tasks)
    seeds = {task: range(command.seed, command.seed + count) for task, count in counts.items()}
    suites: dict[str, list[Outcome]] = {}
    with tqdm(total=sum(counts.values()), desc="Trying", unit="episode", leave=False) as bar:
        for outcomes in try_experts(
            seeds,
            processes=command.processes,
            settings=settings,
            on_episode=lambda _: bar.update(),
        ):
            task = outcomes[0].task
            tqdm.write(_told(task, outcomes))
            if "/" in task:
                suites.setdefault(task.partition("/")[0], []).extend(outcomes)
    for suite, outcomes in suites.items():
        print(_told(suite, outcomes).partition(", failed")[0])


def _told(name: str, outcomes: Sequence[Outcome]) -> str:
    failed = [outcome.seed for outcome in outcomes if not outcome.success]
    rate = format_rate(len(outcomes) - len(failed), len(outcomes))
    return f"{name}: {rate}, failed: {failed}"
