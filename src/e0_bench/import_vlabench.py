"""VLABench's demonstrations as a dataset to train on: `e0 import-vlabench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from e0_bench.doctor.command import DoctorCommand, read_config, run_doctor
from e0_bench.doctor.doctor import Diagnosis


@dataclass(frozen=True)
class ImportVlabenchCommand:
    """Which demonstrations, and where they go."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """HDF5 files of VLABench, directories of them, or LeRobotDatasets that it converted."""
    output: Path
    """Directory of the dataset; no other may lie there."""
    videos: bool = False
    """Store pictures as video."""


def run_import_vlabench(command: ImportVlabenchCommand) -> Diagnosis:
    """Import, print, and let the doctor look at the result.

    Raises RuntimeError if h5py is missing, and what `import_demonstrations` raises.
    """
    try:
        from lerobot_policy_e0.vlabench.importing import import_demonstrations
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"importing needs the package {error.name!r}: pip install 'lerobot_policy_e0[vlabench]'"
        ) from error
    record = import_demonstrations(command.sources, command.output, use_videos=command.videos)
    print(f"Dataset: {command.output}, {len(record['episodes'])} episodes\n")
    return run_doctor(DoctorCommand(command.output), read_config([]))
