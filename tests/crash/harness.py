"""Commands that are killed at random instants and given again: how, and what must come of it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_IN_A_ROW = 4  # kills of one run before it may end
# Whom a kill hits: everything at once, the parent alone, the parent as SLURM and systemd do it.
WAYS: tuple[tuple[Callable[[int, int], None], signal.Signals], ...] = (
    (os.killpg, signal.SIGKILL),
    (os.kill, signal.SIGKILL),
    (os.kill, signal.SIGTERM),
)


@dataclass(frozen=True)
class Command:
    """arguments: of Python, for an output directory. result: what that holds in the end, without
    what differs from run to run, such as times."""

    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], Any]


def crash(command: Command, directory: Path, kills: int, seed: int = 0) -> None:
    """Run a command once undisturbed; then kill it so many times, a few times in a row, and let it
    end after each row. Whatever the instants, its result must be that of the undisturbed run."""
    chance = random.Random(seed)
    began = time.monotonic()
    _finish(command, directory / "undisturbed")
    length = time.monotonic() - began
    expected = command.result(directory / "undisturbed")
    done = row = 0
    while done < kills:
        output = directory / f"killed-{row}"
        for _ in range(min(chance.randint(1, MOST_IN_A_ROW), kills - done)):
            send, kind = chance.choice(WAYS)
            instant = chance.uniform(0, length)
            process = _start(command, output)
            try:
                process.wait(instant)
            except subprocess.TimeoutExpired:
                send(process.pid, kind)
                process.wait()
            done += 1
        _finish(command, output)
        found = command.result(output)
        assert found == expected, f"row {row} of kills (seed {seed}): see {output} and its log"
        left = [path for path in output.rglob("*.lock") if path.is_file()]
        assert not left, f"locks that nobody holds any more: {left}"
        row += 1


def _start(command: Command, output: Path) -> subprocess.Popen:
    with output.with_name(f"{output.name}.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, *command.arguments(output)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"E0_STATE_ONLY": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def _finish(command: Command, output: Path) -> None:
    code = _start(command, output).wait()
    log = output.with_name(f"{output.name}.log").read_text(errors="replace")
    assert code == 0, f"exit code {code}:\n{log[-3000:]}"


def episodes(log: Path) -> list[dict[str, Any]]:
    """The lines of a benchmark's log in the order of their episodes, without times."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    for row in rows:
        del row["latency_ms"]
    return sorted(rows, key=lambda row: (row["policy"], row["task"], row["control"], row["seed"]))
