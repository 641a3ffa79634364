"""LeRobot's training loop with the dataset's frames in memory: `e0 train`, same flags.

LeRobot's loop takes an Accelerator from its caller; this one swaps the data loader's dataset for
`FramesInMemory`. Nothing of the loop is forked. Beside it a learning curve is kept as JSON lines.
"""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from httpx import HTTPError
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from lerobot.configs import parser
from lerobot.configs.train import TrainPipelineConfig
from lerobot.scripts.lerobot_train import train
from lerobot.utils.import_utils import register_third_party_plugins
from lerobot.utils.logging_utils import MetricsTracker
from torch.utils.data import DataLoader, Dataset, Subset

from e0.network.vision import KeypointShape
from e0.policy import network_sizes
from e0_system.files import append_line
from lerobot_policy_e0.configuration_e0 import E0Config
from lerobot_policy_e0.dataset import FramesInMemory
from lerobot_policy_e0.training_start import augmentations

LEARNING_CURVE = "learning_curve.jsonl"


class InMemoryAccelerator(Accelerator):
    """An Accelerator that keeps the frames of the datasets it is given in memory; `policy` tells
    in which size its network will look at them."""

    policy: Any = None

    def prepare_data_loader(self, data_loader: DataLoader, *arguments: Any, **options: Any) -> Any:
        in_memory = DataLoader(
            _in_memory(data_loader.dataset, picture_options(self.policy)),
            batch_size=data_loader.batch_size,
            sampler=data_loader.sampler,
            collate_fn=data_loader.collate_fn,
            pin_memory=data_loader.pin_memory,
            # What begins an epoch draws a number: not from those that noise is drawn from, or a
            # resumed training, which begins one more, would go on with other noise.
            generator=torch.Generator(),
        )
        return super().prepare_data_loader(in_memory, *arguments, **options)


def _in_memory(dataset: Dataset, options: dict[str, Any]) -> Dataset:
    if isinstance(dataset, Subset):  # --max_eval_samples
        return Subset(_in_memory(dataset.dataset, options), dataset.indices)
    return FramesInMemory(dataset, **options)  # pyright: ignore[reportArgumentType]


def picture_options(policy: Any) -> dict[str, Any]:
    """How large pictures are kept for a policy of this configuration: as an E0 policy's network
    looks at them, unless they are augmented before; options of `FramesInMemory`."""
    if not isinstance(policy, E0Config) or augmentations(policy):
        return {}
    sizes = network_sizes(policy.policy_settings())
    antialias = isinstance(sizes.vision, KeypointShape)
    return {"picture_size": sizes.image_size, "antialias": antialias}


class LearningCurve(logging.Filter):
    """Writes what LeRobot logs of the training, one JSON line per log step.

    It only watches. It is a filter because LeRobot removes the root logger's handlers.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def filter(self, record: logging.LogRecord) -> bool:
        tracker: Any = record.msg
        if isinstance(tracker, MetricsTracker):
            averages = {name: meter.avg for name, meter in tracker.metrics.items()}
            append_line(self.path, json.dumps({"step": tracker.steps} | averages))
        return True


def read_learning_curve(path: Path) -> list[dict[str, float]]:
    """Rows in order of steps. A resumed run repeats steps, and the later row counts; a line that a
    kill cut short is left out."""
    rows: dict[int, dict[str, float]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


@parser.wrap()
def train_in_memory(cfg: TrainPipelineConfig) -> None:
    """Train as `lerobot-train` does, from the command line's arguments."""
    cfg.validate()  # fills in what --policy.path names, and the output directory
    policy: Any = cfg.trainable_config
    _check_run(cfg, policy)
    precision = {"bfloat16": "bf16", "float16": "fp16"}.get(getattr(policy, "dtype", ""), "no")
    accelerator = InMemoryAccelerator(
        step_scheduler_with_optimizer=False,
        mixed_precision=precision,
        cpu=policy.device == "cpu",
    )
    accelerator.policy = policy
    if accelerator.is_main_process:
        assert cfg.output_dir is not None
        logging.getLogger().addFilter(LearningCurve(Path(cfg.output_dir) / LEARNING_CURVE))
    train(cfg, accelerator=accelerator)


def _check_run(cfg: TrainPipelineConfig, policy: Any) -> None:
    """Refuse what frames in memory exclude; say which flags have no effect."""
    if cfg.dataset.streaming:
        raise ValueError(
            "e0 train keeps all frames in memory and cannot stream them; lerobot-train takes the "
            "same flags and can"
        )
    print(
        "Frames are kept in memory, without loading processes: num_workers, prefetch_factor, "
        "persistent_workers and dataloader_multiprocessing_context have no effect."
    )
    asked = getattr(policy, "optimizer_lr", None)
    kept = getattr(cfg.optimizer, "lr", asked)
    if cfg.resume and asked != kept:
        print(
            f"A resumed training goes on with its own learning rate, {kept}; "
            f"--policy.optimizer_lr={asked} has no effect. To change it, start anew from its "
            "checkpoint with --policy.path."
        )


def main() -> None:
    """Entry point; takes the flags of `lerobot-train`.

    Raises ValueError for settings that the policy refuses, ConnectionError where something is not
    on this disk and the hub does not give it, and what LeRobot's training raises.
    """
    register_third_party_plugins()
    try:
        train_in_memory()  # pyright: ignore[reportCallIssue]  # the wrapper parses sys.argv
    except SystemExit as stop:
        # LeRobot has printed which settings were refused, and not why.
        reason = stop.__context__
        while reason is not None and reason.__cause__ is not None:
            reason = reason.__cause__
        if isinstance(reason, ValueError):
            raise ValueError(str(reason)) from stop
        raise
    except (HTTPError, OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise ConnectionError(
            "a dataset or weights are neither on this disk (check --dataset.root and "
            f"--policy.path) nor to be had from the hub: {error}"
        ) from error


if __name__ == "__main__":
    main()
