"""`kill -9` at any instant: the same command given again ends with the undisturbed run's result.

The commands themselves take long; `make crash` kills each E0_CRASH_KILLS times (50).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crash import commands
from crash.harness import Command, crash, episodes

KILLS = int(os.environ.get("E0_CRASH_KILLS", "50"))
# What every command is made of: an owned directory, a log of episodes, results, a child process.
PROGRAM = """
import sys
from pathlib import Path
from e0_bench.child_process import child_process
from e0_bench.closed_loop.episodes import EpisodeJob, EpisodeLog, EpisodeResult
from e0_bench.files import write_json
from e0_system.locks import own_directory

out = Path(sys.argv[1])
with own_directory(out) as lock:
    log = EpisodeLog(out / "episodes.jsonl")
    for seed in range(60):
        if EpisodeJob("e0", "Push", seed) not in log.results:
            log.append(
                EpisodeResult("e0", "Push", seed, "none", True, 7, 0.5, [1.5], 2, 3.5, "push")
            )
    with (out / "log").open("a") as file, child_process("json.tool", [], file, lock) as child:
        pass
    write_json(out / "summary.json", {"episodes": len(log.results)})
"""


def test_what_commands_are_made_of(tmp_path: Path) -> None:
    command = Command(
        lambda out: ["-c", PROGRAM, str(out)],
        lambda out: (
            episodes(out / "episodes.jsonl"),
            json.loads((out / "summary.json").read_text()),
        ),
    )
    crash(command, tmp_path, kills=4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("collected")
    crash(commands.collect(), directory, kills=0)
    return directory / "undisturbed" / "data"


@pytest.mark.crash
@pytest.mark.timeout(0)
def test_collect(tmp_path: Path) -> None:
    crash(commands.collect(), tmp_path, KILLS)


@pytest.mark.crash
@pytest.mark.timeout(0)
def test_import_vlabench(tmp_path: Path) -> None:
    crash(commands.import_vlabench(tmp_path / "recorded"), tmp_path, KILLS)


@pytest.mark.crash
@pytest.mark.timeout(0)
def test_train(tmp_path: Path, dataset: Path) -> None:
    crash(commands.train(dataset), tmp_path, KILLS)


@pytest.mark.crash
@pytest.mark.timeout(0)
def test_bench(tmp_path: Path, dataset: Path) -> None:
    trained = tmp_path / "trained"
    trained.mkdir()
    crash(commands.train(dataset), trained, kills=0)
    checkpoint = trained / "undisturbed/lr_0.001/checkpoints/last/pretrained_model"
    crash(commands.bench(checkpoint), tmp_path, KILLS)


@pytest.mark.crash
@pytest.mark.timeout(0)
def test_compare(tmp_path: Path) -> None:
    crash(commands.compare(tmp_path), tmp_path, KILLS)


@pytest.mark.crash
@pytest.mark.timeout(0)
def test_demo(tmp_path: Path) -> None:
    crash(commands.demo(), tmp_path, KILLS)
