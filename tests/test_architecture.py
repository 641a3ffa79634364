"""What may import what, how long it takes, and how long a file may be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PROGRAMS = ("e0.bench", "e0.cli")  # They may use LeRobot and the simulator.
LEROBOT_SIDE = {"lerobot", "lerobot_policy_e0"}
SIMULATOR_SIDE = {"mani_skill", "sapien", "gymnasium", "e0_maniskill"}
MAXIMUM_LINES = 400
MAXIMUM_IMPORT_SECONDS = 2.0


def modules_of(package: str) -> list[str]:
    """Names of all modules of a package, found as files: nothing is imported."""
    names = []
    for file in sorted((SOURCE / package).rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(SOURCE), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def imported_by(modules: list[str]) -> set[str]:
    """Top-level packages that a fresh interpreter holds after importing `modules`."""
    code = (
        f"import importlib, json, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    return set(json.loads(run_python(code).splitlines()[-1]))


def test_the_method_needs_neither_lerobot_nor_a_simulator() -> None:
    method = [name for name in modules_of("e0") if not name.startswith(PROGRAMS)]
    assert {"e0", "e0.policy", "e0.network.policy_network", "e0.tokens"} <= set(method)
    imported = imported_by(method)
    assert "torch" in imported
    assert not imported & (LEROBOT_SIDE | SIMULATOR_SIDE)


def test_the_simulator_needs_neither_lerobot_nor_the_method() -> None:
    pytest.importorskip("mani_skill")
    imported = imported_by(modules_of("e0_maniskill"))
    assert {"e0_maniskill", "gymnasium"} <= imported
    assert not imported & (LEROBOT_SIDE | {"e0"})


def test_importing_the_method_costs_little_beyond_torch() -> None:
    code = (
        "import time, torch\nstart = time.perf_counter()\nimport e0\n"
        "print(time.perf_counter() - start)"
    )
    seconds = min(float(run_python(code)) for _ in range(3))
    assert seconds <= MAXIMUM_IMPORT_SECONDS


def test_no_source_file_is_long() -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in SOURCE.rglob("*.py")}
    assert len(lengths) > 20
    assert {str(f): n for f, n in lengths.items() if n > MAXIMUM_LINES} == {}
