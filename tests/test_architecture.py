"""What may import what, how long it takes, and how long a file may be."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
CLIENTS = SOURCE.parent / "clients"
# Each package with those of ours that it may import: those of the floors below.
SIMULATORS = {"e0_experts", "e0_libero", "e0_maniskill", "e0_system"}
FLOORS = {
    "e0": set(),
    "e0_system": set(),
    "e0_experts": {"e0_system"},
    "e0_maniskill": {"e0_experts"},
    "e0_libero": {"e0_experts"},
    "e0_server": set(),
    "lerobot_policy_e0": {"e0", "e0_server"} | SIMULATORS,
    "e0_bench": {"lerobot_policy_e0", "e0", "e0_server"} | SIMULATORS,
}
# Packages of others that a floor does without. LeRobot brings Gymnasium along.
FOREIGN = {
    "e0": {"lerobot", "transformers", "mani_skill", "sapien", "gymnasium"},
    "e0_system": {"lerobot", "transformers", "torch", "gymnasium", "mani_skill", "libero"},
    "e0_experts": {"lerobot", "transformers", "torch", "gymnasium", "mani_skill", "libero"},
    "e0_maniskill": {"lerobot", "transformers", "libero"},
    "e0_libero": {"lerobot", "transformers", "mani_skill", "sapien"},
    "e0_server": {"lerobot", "transformers", "torch", "gymnasium", "mani_skill", "sapien"},
}
NEEDS = {"e0_maniskill": "mani_skill", "e0_libero": "mujoco"}
MAXIMUM_LINES = 400
MAXIMUM_IMPORT_SECONDS = 2.0
MAXIMUM_HELP_SECONDS = 1.0


def modules_of(package: str) -> dict[str, Path]:
    """All modules of a package by name, found as files: nothing is imported."""
    modules = {}
    for file in sorted((SOURCE / package).rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return modules


def imports_of(file: Path) -> set[str]:
    """Names that a file imports anywhere, in functions and for type checkers too; for `from a
    import b` both a and a.b, of which the second may be no module."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file} has a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def import_graph() -> dict[str, set[str]]:
    """Every module of ours with those that it names in its imports."""
    modules = {name: file for package in FLOORS for name, file in modules_of(package).items()}
    return {name: imports_of(file) & modules.keys() for name, file in modules.items()}


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


def test_every_package_has_a_floor() -> None:
    packages = {file.parent.name for file in SOURCE.glob("*/__init__.py")}
    assert packages == set(FLOORS)


@pytest.mark.parametrize("package", FLOORS)
def test_imports_go_downwards(package: str) -> None:
    modules = modules_of(package)
    assert len(modules) >= 3
    for name, file in modules.items():
        used = {imported.partition(".")[0] for imported in imports_of(file)}
        assert used & FLOORS.keys() <= FLOORS[package] | {package}, name
        assert not used & FOREIGN.get(package, set()), name


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = import_graph()
    assert "e0.tokens" in graph["e0.heads"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", FOREIGN)
def test_what_is_imported_brings_nothing_foreign_along(package: str) -> None:
    if package in NEEDS:
        pytest.importorskip(NEEDS[package])
    imported = imported_by(list(modules_of(package)))
    assert package in imported
    assert not imported & (FOREIGN[package] | FLOORS.keys() - {package} - FLOORS[package])


def test_clients_in_other_environments_need_neither_torch_nor_lerobot() -> None:
    """What clients import of ours: how they ask a server, and how they keep their episodes."""
    modules = {name for package in FLOORS for name in modules_of(package)}
    used = {name for file in CLIENTS.glob("*/src/*/*.py") for name in imports_of(file)} & modules
    assert {"e0_server.client", "e0_bench.closed_loop.episodes"} <= used
    imported = imported_by(sorted(used))
    assert not imported & {"torch", "lerobot", "transformers", "gymnasium", "tyro", "matplotlib"}
    assert imported & FLOORS.keys() == {"e0_server", "e0_bench", "e0_system"}


def test_importing_the_method_costs_little_beyond_torch() -> None:
    code = (
        "import time, torch\nstart = time.perf_counter()\nimport e0\n"
        "print(time.perf_counter() - start)"
    )
    seconds = min(float(run_python(code)) for _ in range(3))
    assert seconds <= MAXIMUM_IMPORT_SECONDS


def test_the_command_tells_what_it_can_do_at_once() -> None:
    code = (
        "import time, sys\nstart = time.perf_counter()\nsys.argv = ['e0', '--help']\n"
        "from e0_bench import cli\ncli.main()\nassert 'torch' not in sys.modules\n"
        "print(time.perf_counter() - start)"
    )
    seconds = min(float(run_python(code).splitlines()[-1]) for _ in range(3))
    assert seconds <= MAXIMUM_HELP_SECONDS


def test_no_source_file_is_long() -> None:
    files = [file for folder in (SOURCE, CLIENTS) for file in folder.rglob("*.py")]
    lengths = {file: len(file.read_text().splitlines()) for file in files}
    assert len(lengths) > 20
    assert {str(f): n for f, n in lengths.items() if n > MAXIMUM_LINES} == {}
