"""LeRobot's training as a phase of something larger: in a process of its own, resumed if cut short.

A run is its directory `.../NAME` (LeRobot's output_dir) and, beside it, `NAME.json`, the settings
that it began with, and `NAME.log`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from e0_bench.files import write_json


def local_training(
    dataset: Path, policy: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings of `train` for an E0 policy and a dataset on this disk, with nothing sent anywhere.
    `settings` holds at least `steps`; what it says goes before the choices made here."""
    steps = int(settings["steps"])
    chosen = {
        "dataset": {
            "repo_id": f"local/{dataset.name}",
            "root": dataset,
            "depth_output_unit": "m",
        },
        "policy": {"type": "e0", "push_to_hub": False, **policy},
        "num_workers": 0,
        "save_freq": max(1, min(500, steps // 5)),
        "log_freq": max(1, min(25, steps // 20)),
        "env_eval_freq": 0,
        "wandb": {"enable": False},
    }
    return chosen | dict(settings)


def check_training(settings: Mapping[str, Any]) -> None:
    """Raise ValueError if LeRobot's training knows no such settings, naming the first of them."""
    import draccus
    from lerobot.configs.train import TrainPipelineConfig

    import lerobot_policy_e0  # noqa: F401 - makes the policy's type known

    try:
        draccus.decode(TrainPipelineConfig, _as_data(settings))
    except draccus.ParsingError as error:
        raise ValueError(f"lerobot-train does not take these settings: {error}") from error


def _as_data(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as JSON data, paths as text."""
    return json.loads(json.dumps(dict(settings), default=str))


def trained_checkpoint(directory: Path, steps: int) -> Path | None:
    """The checkpoint of a finished run of so many steps, if there is one."""
    # LeRobot points this link to a checkpoint once all of it is written.
    last = directory / "checkpoints" / "last"
    final = last.with_name(f"{steps:06d}")
    return final / "pretrained_model" if last.resolve() == final.resolve() else None


def train(
    settings: Mapping[str, Any],
    directory: Path,
    *,
    threads: int | None = None,
    description: str = "Training",
    position: int = 0,
) -> Path:
    """Do what is missing of a training; return the checkpoint's directory.

    `settings` are those of `lerobot-train`, nested, without its output_dir;
    `steps` must be one of them. They count only for a run that has no checkpoint yet. `threads` are
    those of the process, `position` is the line of the progress bar.

    Raises RuntimeError with the end of the log if the training fails, or if another process is
    still training into this directory.
    """
    steps = int(settings["steps"])
    finished = trained_checkpoint(directory, steps)
    if finished:
        return finished
    directory.parent.mkdir(parents=True, exist_ok=True)
    log = directory.with_suffix(".log")
    with log.open("a") as file:
        lock(file)
        last = directory / "checkpoints" / "last"
        if last.exists():
            config = last / "pretrained_model" / "train_config.json"
            flags = [f"--config_path={config}", "--resume=true"]
        else:
            shutil.rmtree(directory, ignore_errors=True)  # cut short before its first checkpoint
            config = directory.with_suffix(".json")
            write_json(config, _as_data(settings) | {"output_dir": str(directory)})
            flags = [f"--config_path={config}"]
        with _process(flags, file, threads) as process:
            _follow(process, directory, steps, description, position)
    finished = trained_checkpoint(directory, steps)
    if process.returncode != 0 or not finished:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise RuntimeError(f"the training failed; the end of {log}:\n{tail}")
    return finished


def lock(log: TextIO) -> None:
    """Hold the log's lock, which the training inherits with its output: it may outlive a killed
    parent, and a second one in the same directory would spoil both. RuntimeError if it is held."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RuntimeError(
            f"another process is still training into {Path(log.name).with_suffix('')}; wait for it "
            "or end it"
        ) from error


@contextmanager
def _process(flags: list[str], log: TextIO, threads: int | None) -> Iterator[subprocess.Popen]:
    """The training's process, which ends with the block."""
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", "lerobot_policy_e0.training", *flags]
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()


def _follow(
    process: subprocess.Popen, directory: Path, steps: int, description: str, position: int
) -> None:
    """Show the training's progress from its learning curve until the process ends."""
    from lerobot_policy_e0.training import LEARNING_CURVE, read_learning_curve

    curve = directory / LEARNING_CURVE
    rows = read_learning_curve(curve)
    start = int(rows[-1]["step"]) if rows else 0
    with tqdm(total=steps, initial=start, desc=description, unit="step", position=position) as bar:
        while process.poll() is None:
            time.sleep(1.0)
            rows = read_learning_curve(curve)
            if rows and rows[-1]["step"] > bar.n:
                bar.set_postfix(loss=f"{rows[-1]['loss']:.3f}", refresh=False)
                bar.update(int(rows[-1]["step"]) - bar.n)
