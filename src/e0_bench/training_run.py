"""LeRobot's training as a phase of something larger: in a process of its own, resumed if cut short.

A run is its directory `.../NAME` (LeRobot's output_dir) and, beside it, `NAME.json`, the settings
that it began with, `NAME.log`, and, while it goes on, `NAME.lock`.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from e0_bench.child_process import child_process
from e0_bench.files import read_json, write_json
from e0_system.files import beside
from e0_system.locks import LOCK, own_directory
from e0_system.workers import Processes, WorkerPool

TRAINING = "lerobot_policy_e0.training"


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
    shown: bool = True,
) -> Path:
    """Do what is missing of a training; return the checkpoint's directory.

    `settings` are those of `lerobot-train`, nested, without its output_dir;
    `steps` must be one of them. They count only for a run that has no checkpoint yet. `threads` are
    those of the process, `position` is the line of the progress bar, if it is `shown`.

    Raises RuntimeError with the end of the log if the training fails, DirectoryInUseError if
    another process is still training into this directory, and FileExistsError if the directory
    holds something else.
    """
    steps = int(settings["steps"])
    with own_directory(directory, beside(directory, LOCK)) as lock:
        finished = trained_checkpoint(directory, steps)
        if finished:
            return finished
        config, log = beside(directory, ".json"), beside(directory, ".log")
        last = last_checkpoint(directory)
        if last is not None:
            flags = [
                f"--config_path={last / 'pretrained_model' / 'train_config.json'}",
                "--resume=true",
            ]
        else:
            _remove_begun(directory, config)  # cut short before its first checkpoint
            write_json(config, _as_data(settings) | {"output_dir": str(directory)})
            flags = [f"--config_path={config}"]
        with log.open("a") as file, child_process(TRAINING, flags, file, lock, threads) as process:
            if shown:
                _follow(directory, steps, lambda: process.poll() is not None, description, position)
            process.wait()
        finished = trained_checkpoint(directory, steps)
    if process.returncode != 0 or not finished:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"the training failed; the end of {log}:\n{tail}")
    return finished


def train_together(
    runs: Mapping[Path, Mapping[str, Any]], processes: Processes
) -> dict[Path, Path]:
    """Do what is missing of several trainings, as many at the same time as there are workers; the
    checkpoints by the directories that they are done in, which all machines of a cluster must
    share. Raises what `train` raises, once the others have ended; in a cluster ClusterError, and
    WorkerLostError if two processes that trained the same died.
    """
    finished = {run: trained_checkpoint(run, int(own["steps"])) for run, own in runs.items()}
    if all(finished.values()):
        return {run: checkpoint for run, checkpoint in finished.items() if checkpoint}
    at_once = min(processes.workers, len(runs))
    with ThreadPoolExecutor(at_once) as threads, _trainers(processes, at_once) as trained:
        futures = {
            directory: threads.submit(trained, settings, directory, place % at_once)
            for place, (directory, settings) in enumerate(runs.items())
        }
        try:
            return {directory: future.result() for directory, future in futures.items()}
        except BaseException as error:
            threads.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
            raise


Trainer = Callable[[Mapping[str, Any], Path, int], Path]
"""Trains with settings in a directory, with a progress bar in this line; gives the checkpoint."""


@contextmanager
def _trainers(processes: Processes, at_once: int) -> Iterator[Trainer]:
    """Where so many trainings are done at once: here, where they share the cores, or in a
    cluster."""

    def name(directory: Path) -> str:
        return "/".join(directory.parts[-2:])

    if processes.cluster is None:
        cores = max(1, (os.cpu_count() or 1) // at_once)
        yield lambda settings, directory, line: train(
            settings, directory, threads=cores, description=name(directory), position=line
        )
        return
    pool = WorkerPool(replace(processes, workers=at_once))

    def there(settings: Mapping[str, Any], directory: Path, line: int) -> Path:
        directory = directory.absolute()
        training = pool.submit(
            train, settings, directory, threads=processes.worker_cpus, shown=False
        )
        _follow(directory, int(settings["steps"]), training.done, name(directory), line)
        return training.result()

    try:
        yield there
    finally:
        pool.shutdown(cancel_futures=True)


def last_checkpoint(directory: Path) -> Path | None:
    """The link to the newest whole checkpoint of a run, if it has any.

    LeRobot takes the link away before it makes the next one. Where a kill came between, the newest
    checkpoint is whole, and gets its link here.
    """
    last = directory / "checkpoints" / "last"
    written = sorted(path for path in last.parent.glob("*") if path.name.isdigit())
    if not last.exists() and len(written) > 1:
        last.symlink_to(written[-1].name)
    return last if last.exists() else None


def _remove_begun(directory: Path, config: Path) -> None:
    """Remove a run without a checkpoint; FileExistsError unless its settings say that it is one."""
    if not directory.exists():
        return
    if not config.exists() or read_json(config).get("output_dir") != str(directory):
        raise FileExistsError(
            f"{directory} is there, and {config} does not say that a training began it; move it "
            "away, or choose another output"
        )
    shutil.rmtree(directory)


def _follow(
    directory: Path, steps: int, ended: Callable[[], bool], description: str, position: int
) -> None:
    """Show the training's progress from its learning curve until it has ended."""
    from lerobot_policy_e0.training import LEARNING_CURVE, read_learning_curve

    curve = directory / LEARNING_CURVE
    rows = read_learning_curve(curve)
    start = int(rows[-1]["step"]) if rows else 0
    with tqdm(total=steps, initial=start, desc=description, unit="step", position=position) as bar:
        while not ended():
            time.sleep(1.0)
            rows = read_learning_curve(curve)
            if rows and rows[-1]["step"] > bar.n:
                bar.set_postfix(loss=f"{rows[-1]['loss']:.3f}", refresh=False)
                bar.update(int(rows[-1]["step"]) - bar.n)
