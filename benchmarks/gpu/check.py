"""Stage A: does it run? What the machine is, and the tests that need a GPU.

Results, `check.json`: {"machine": {...}, "packages": {name: version}, "tests": rows}; a row has
"test", "outcome" (passed, failed, skipped), "seconds", "reason". Given earlier results, tests that
have passed are not run again.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from stage import ROOT, begin, require_packs, seconds_left, stage_parser

NAME = "check.json"
ALL = ["-m", "gpu", "--ignore=tests/e0_maniskill", "--continue-on-collection-errors"]
SMALLEST = ["tests/e0/test_cuda_graph.py", "-k", "buffers or lengths", "-m", "not crash"]
TEST_SECONDS = 60  # one that takes longer hangs, and ends the run


def main() -> None:
    options = stage_parser(__doc__, minutes=3).parse_args()
    begin(options, ["base"], [NAME])
    from e0_bench.files import read_json, write_json

    path = options.out / NAME
    results: dict[str, Any] = read_json(path) if path.exists() else {}
    results |= {"machine": machine(), "packages": packages()}
    results.setdefault("tests", [])
    write_json(path, results)
    chosen = SMALLEST if options.smallest else ALL
    recorder = Recorder(options, results, path)
    arguments = [*chosen, "-q", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}"]
    status = pytest.main([*arguments, f"--rootdir={ROOT}"], plugins=[recorder])
    count = {kind: sum(row["outcome"] == kind for row in results["tests"]) for kind in KINDS}
    print(f"{results['machine']['device']}: {count}; rendering: {results['machine']['rendering']}")
    if not count["passed"]:
        sys.exit("no test has passed here; is there a CUDA device?")
    sys.exit(0 if status == pytest.ExitCode.NO_TESTS_COLLECTED else status)  # all have passed


KINDS = ("passed", "failed", "skipped")


class Recorder:
    """Writes each test's outcome as soon as it is known, and stops the tests in time."""

    def __init__(self, options: Any, results: dict[str, Any], path: Path) -> None:
        self.options, self.results, self.path = options, results, path
        self.passed = {row["test"] for row in results["tests"] if row["outcome"] == "passed"}
        self.session: pytest.Session | None = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self.session = session

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid not in self.passed]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._add(report, report.duration)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._add(report, 0.0)

    def _add(self, report: Any, seconds: float) -> None:
        from e0_bench.files import write_json

        rows = [row for row in self.results["tests"] if row["test"] != report.nodeid]
        row = {"test": report.nodeid, "outcome": report.outcome}
        row |= {"seconds": round(seconds, 2), "reason": reason(report)}
        self.results["tests"] = [*rows, row]
        write_json(self.path, self.results)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if seconds_left(self.options) == 0 and self.session is not None:
            self.session.shouldstop = "the time is up"


def reason(report: Any) -> str:
    """The last lines of what a test that did not pass says."""
    if report.outcome == "passed":
        return ""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[-1])
    return "\n".join(str(report.longrepr).splitlines()[-8:])


def machine() -> dict[str, Any]:
    """Device, its memory, versions, processor, and what can be rendered."""
    import torch

    found = torch.cuda.is_available()
    device = torch.cuda.get_device_properties(0) if found else None
    return {
        "device": f"CPU {platform.machine()}" if device is None else device.name,
        "device_memory_gb": None if device is None else round(device.total_memory / 1e9, 1),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "rendering": rendering(),
    }


def rendering() -> str:
    """What SAPIEN can render with here, or why not."""
    try:
        require_packs(["sapien"])
    except SystemExit as missing:
        return f"not tried, {missing}"
    from e0_maniskill.rendering import rendering_available

    return rendering_available()[1]


def packages() -> dict[str, str]:
    """Every distribution that Python finds here; of two versions the one that is imported."""
    found: dict[str, str] = {}
    for distribution in distributions():
        found.setdefault(distribution.metadata["Name"].lower(), distribution.version)
    return dict(sorted(found.items()))


if __name__ == "__main__":
    main()
