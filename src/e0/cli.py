"""E0, a robot policy by continuized discrete diffusion.

`e0 train` takes the flags of `lerobot-train` and keeps all frames in memory; `e0 SUBCOMMAND --help`
shows those of the others.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from e0.bench.benchmark import BenchmarkSettings, run_benchmark
from e0.bench.comparison import ComparisonSettings, comparison_markdown, run_comparison
from e0.bench.demo import DemoSettings, run_demo
from e0.bench.summary import markdown

DRY_RUN_SEED = 5000
DEMO = "Collect, train and evaluate a policy on two tasks, and write a report."
BENCH = """Measure policies of any LeRobot type on the same episodes, and compare them.

The summary covers what is asked for. Stopped, it goes on where it was, and asking for more
episodes, tasks or checkpoints extends it."""

COMPARE = "Collect, train and measure several policies on equal terms, as a recipe says."


@dataclass(frozen=True)
class Collect:
    """Let scripted experts make demonstrations: a LeRobotDataset v3.

    Stopped, it goes on where it was when the same command is given again.
    """

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
    """Write nothing: print how often the experts succeed, without images."""


@dataclass(frozen=True)
class ImportWeights:
    """Check weights of pi-0, pi-0.5, PaliGemma or E0's authors, and keep what E0 uses.

    Every tensor is accounted for. Start from the result with --policy.init_from=OUTPUT.
    """

    source: Annotated[str, tyro.conf.Positional]
    """A safetensors file, a directory (sharded or not; orbax where installed), or a hub id."""
    output: Path
    """Directory to write; must not exist yet."""
    preset: str | None = None
    """Whose sizes the weights must have; found by their shapes if not given."""
    tokenizer: str | None = None
    """Text tokenizer to keep beside them: a tokenizer.json, a directory with one, or a hub id."""


Command = (
    Annotated[Collect, tyro.conf.subcommand("collect")]
    | Annotated[ImportWeights, tyro.conf.subcommand("import-weights")]
    | Annotated[DemoSettings, tyro.conf.subcommand("demo", description=DEMO)]
    | Annotated[BenchmarkSettings, tyro.conf.subcommand("bench", description=BENCH)]
    | Annotated[ComparisonSettings, tyro.conf.subcommand("compare", description=COMPARE)]
)


def collect(command: Collect) -> None:
    """`e0 collect`."""
    from e0_maniskill.cameras import CameraShift
    from e0_maniskill.collection import CollectionSettings
    from lerobot_policy_e0.collection import CollectionRequest, collect_dataset

    if command.dry_run:
        dry_run(command)
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


def bench(command: BenchmarkSettings) -> None:
    """`e0 bench`."""
    print(f"\n{markdown(run_benchmark(command))}\nResults: {command.out}")


def compare(command: ComparisonSettings) -> None:
    """`e0 compare`."""
    print(f"\n{comparison_markdown(run_comparison(command))}\nResults: {command.directory}")


def import_weights(command: ImportWeights) -> None:
    """`e0 import-weights`."""
    from e0.weights import convert_weights, open_source

    report = convert_weights(
        open_source(command.source),
        command.output,
        preset=command.preset,
        tokenizer=command.tokenizer,
    )
    print(f"{report.summary()}\nStart from it with --policy.init_from={command.output}")


def dry_run(command: Collect) -> None:
    """Print the experts' success over the seeds from 5000 on, a line per task."""
    from e0.bench.statistics import format_rate
    from e0_maniskill.collection import expert_success, numbers_per_task

    for task, count in numbers_per_task(command.episodes, command.tasks).items():
        seeds = range(DRY_RUN_SEED, DRY_RUN_SEED + count)
        outcome = expert_success(task, seeds, workers=command.workers)
        failed = [seed for seed, success in outcome.items() if not success]
        print(f"{task}: {format_rate(len(outcome) - len(failed), len(outcome))}, failed: {failed}")


def main() -> None:
    """Entry point of the command `e0`."""
    if sys.argv[1:2] == ["train"]:
        from lerobot_policy_e0 import training

        del sys.argv[1]  # the rest are LeRobot's own flags
        training.main()
        return
    command = tyro.cli(Command, description=__doc__)
    try:
        if isinstance(command, Collect):
            collect(command)
        elif isinstance(command, BenchmarkSettings):
            bench(command)
        elif isinstance(command, ComparisonSettings):
            compare(command)
        elif isinstance(command, ImportWeights):
            import_weights(command)
        else:
            run_demo(command)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"e0: {error}")


if __name__ == "__main__":
    main()
