"""What `e0 report` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from e0_bench.report.clips import record_clips
from e0_bench.report.page import PAGE, write_page
from e0_bench.report.reading import read_results
from e0_system.locks import own_directory
from e0_system.workers import Processes


@dataclass(frozen=True)
class ReportCommand:
    """Where the results are, and what is shown of them."""

    directory: Annotated[Path, tyro.conf.Positional]
    """Of `e0 compare` or `e0 bench`."""
    out: Path | None = None
    """Folder of the page; DIRECTORY/report if not given."""
    clips: int = 1
    """Successes and failures that are run once more to be shown, of each policy in each task."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = Processes()

    def __post_init__(self) -> None:
        if self.clips < 0:
            raise ValueError(f"clips must be at least 0, got {self.clips}")


def run_report(command: ReportCommand) -> Path:
    """Record what is missing of the clips, write the page, and return its path.

    Raises ReportError for a directory without results, DirectoryInUseError, and what recording
    raises; a page that is already there then stays as it was.
    """
    data, parts = read_results(command.directory)
    folder = command.out or command.directory / "report"
    with own_directory(folder):
        clips = {
            part.name: record_clips(part, folder, command.clips, command.processes)
            for part in parts
        }
        write_page(folder, command.directory.resolve().name, data, parts, clips)
    return folder / PAGE
