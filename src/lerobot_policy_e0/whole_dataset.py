"""A LeRobotDataset that a command writes: whole, or not there.

Meanwhile it is written under another name, in a directory beside it; at the end it is renamed. What
was begun is kept there when the command is stopped.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import datasets.config
from datasets import disable_progress_bars
from lerobot.datasets import aggregate_datasets

from e0_system.files import beside, read_json, write_text
from e0_system.locks import own_directory

RECORD = Path("meta") / "collection.json"
MARKER = "unfinished_collection"  # in a directory that may be removed once it is not needed
SMALLEST_FREE_SPACE = 2**20  # bytes; less is a full disk


class OutputInUseError(ValueError):
    """The output directory holds something else."""


def write_whole(
    output: Path, wanted: dict[str, Any], write: Callable[[Path], None]
) -> dict[str, Any]:
    """Have `write(directory)` put a dataset at `output`, and return its record, which `write` keeps
    as RECORD in it and which holds at least what is wanted. The directory is beside the output, its
    own while it writes, and keeps what a stop leaves.

    A dataset that is already there and holds what is wanted is left alone. Raises OutputInUseError
    if `output` is anything else, DirectoryInUseError if another process writes it, OSError with
    what to do if the disk is full.
    """
    partial = beside(output, ".partial")
    if output.exists() and not (partial.is_dir() and _is_ours(partial)):
        return _existing_record(wanted, output)
    with _unfinished(partial, output):
        if not output.exists():  # or a kill came right after the renaming
            with _full_disk_told(partial):
                write(partial)
        return _existing_record(wanted, output)


@contextmanager
def _unfinished(partial: Path, output: Path) -> Iterator[None]:
    """Own the directory in which an unfinished collection into `output` lies; remove it once the
    output is there. OutputInUseError if it holds something else."""
    with own_directory(partial):
        if not _is_ours(partial):
            raise OutputInUseError(
                f"{partial} holds something else than an unfinished collection, which has to lie "
                f"there (a file {MARKER} would say so); move it away, or choose another output "
                "directory"
            )
        write_text(partial / MARKER, f"of a collection into {output.name}; may be removed\n")
        yield
        for name in ("episodes", "dataset", "parts", "cache"):
            shutil.rmtree(partial / name, ignore_errors=True)
        (partial / MARKER).unlink()  # last: what a kill leaves can still be removed
    with suppress(OSError):  # somebody waited for it
        partial.rmdir()


def _is_ours(partial: Path) -> bool:
    """Whether a directory is marked as an unfinished collection, or empty but for what a kill just
    before or after that leaves: a lock, the draft of the mark."""
    names = [path.name for path in partial.iterdir()]
    return MARKER in names or all(name.startswith(".") for name in names)


@contextmanager
def _full_disk_told(partial: Path) -> Iterator[None]:
    """Where a full disk is behind an error, remove the drafts of datasets and say what to do."""
    try:
        yield
    except Exception as error:
        if not _disk_is_full(error, partial):
            raise
        for draft in (partial / "dataset", *partial.glob("parts/*.partial/dataset")):
            shutil.rmtree(draft, ignore_errors=True)
        raise OSError(
            errno.ENOSPC,
            f"the disk is full; finished episodes are kept in {partial}. Free some space and "
            "run the same command again to go on",
        ) from error


def join_datasets(parts: Sequence[Path], output: Path, name: str, cache: Path) -> None:
    """Write datasets of the same features as one, called local/NAME, into `output`, in place of
    what a kill left there. Those that hold pictures are copied once more on the way, into the
    cache, which would otherwise be the user's and stay there.
    """
    shutil.rmtree(output, ignore_errors=True)
    with own_cache(cache):
        aggregate_datasets(
            [f"local/{part.name}" for part in parts],
            f"local/{name}",
            roots=list(parts),
            aggr_root=output,
            concatenate_data=False,
            concatenate_videos=False,
        )


@contextmanager
def own_cache(cache: Path) -> Iterator[None]:
    """LeRobot's copies of datasets lie in this directory meanwhile, which is gone afterwards."""
    shutil.rmtree(cache, ignore_errors=True)
    disable_progress_bars()
    usual = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = cache
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = usual
        shutil.rmtree(cache, ignore_errors=True)


def _disk_is_full(error: BaseException | None, directory: Path) -> bool:
    """Whether a full disk is behind this error, be it raised in a worker or hidden: LeRobot only
    logs that a picture could not be written, and fails later because it is missing."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return True
        error = error.__cause__
    return directory.exists() and shutil.disk_usage(directory).free < SMALLEST_FREE_SPACE


def _existing_record(wanted: dict[str, Any], output: Path) -> dict[str, Any]:
    path = output / RECORD
    if not path.is_file():
        raise OutputInUseError(
            f"{output} exists and is not a collected dataset; choose another output directory"
        )
    record = read_json(path)
    different = [key for key in wanted if record.get(key) != wanted[key]]
    if different:
        raise OutputInUseError(
            f"{output} holds a dataset that was collected with another {', '.join(different)}; "
            "choose another output directory, or remove this one to collect anew"
        )
    return record
