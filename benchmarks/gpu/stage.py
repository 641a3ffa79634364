"""What the stages share: flags, time, packs, results that survive a stop."""

from __future__ import annotations

import argparse
import atexit
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pack import archive_of, read_packs

ROOT = Path(__file__).parents[2]
DATA = ROOT / "outputs" / "gpu"
"""What later stages need of earlier ones; stays on the machine while it is held."""
KEPT = DATA / "results"
STARTED = time.monotonic()
FAREWELL = 15.0
"""Seconds that a stage keeps for itself: to end its children and write what it has."""


def recipe(smallest: bool) -> Path:
    """The recipe of the stages `demonstrations` and `comparison`."""
    return ROOT / ("benchmarks/gpu/smallest.toml" if smallest else "recipes/maniskill_gpu.toml")


def stage_parser(description: str | None, minutes: float) -> argparse.ArgumentParser:
    """The flags that all stages have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = Path(os.environ.get("OUT", KEPT))
    add = parser.add_argument
    add("--minutes", type=float, default=minutes, help="when it ends, with what it has")
    add("--out", type=Path, default=out, help="folder of the results; $OUT if not given")
    add("--earlier", type=Path, default=KEPT, help="folder of earlier results, to go on from")
    add("--smallest", action="store_true", help="tiny sizes: checks the stage, measures nothing")
    return parser


def begin(options: argparse.Namespace, packs: Sequence[str], results: Sequence[str]) -> None:
    """Check that the packs are there, and take over earlier results by these file names: those
    that `--earlier` names, or those of this machine's last call, of which a copy is kept.

    Ends the process with one line if a pack is missing."""
    require_packs(packs)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.smallest and options.earlier == KEPT:
        return
    for name in results:
        if (options.earlier / name).exists() and not (options.out / name).exists():
            shutil.copy(options.earlier / name, options.out / name)
    if not options.smallest:
        atexit.register(_keep, [options.out / name for name in results])


def _keep(paths: Sequence[Path]) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if path.exists() and path.parent.resolve() != KEPT.resolve():
            shutil.copy(path, KEPT)


def require_packs(packs: Sequence[str]) -> None:
    """End the process with one line that names the packs of which something cannot be imported."""
    known = read_packs()
    missing = {
        pack: [name for name in known[pack]["imports"] if importlib.util.find_spec(name) is None]
        for pack in packs
    }
    told = [f"{archive_of(pack).relative_to(ROOT)} ({', '.join(names)})"
            for pack, names in missing.items() if names]  # fmt: skip
    if told:
        sys.exit(f"missing here: {'; '.join(told)}. Make it with `make gpu-pack` and carry it.")


def seconds_left(options: argparse.Namespace) -> float:
    """Until the stage should end, its farewell left out; never negative."""
    return max(0.0, 60 * options.minutes - FAREWELL - (time.monotonic() - STARTED))


def run_within(command: Sequence[str], seconds: float) -> int | None:
    """A command's exit status, or None if it was stopped after so many seconds, with all
    processes that it had started."""
    if seconds <= 0:
        return None
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    """SIGTERM to the group, and SIGKILL five seconds later."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
            process.wait(timeout=5)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
