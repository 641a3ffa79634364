"""Rehearse the stages without a GPU: `make gpu-rehearse`.

Makes an environment that holds what machine.txt says of the GPU machine and nothing else, lets
`run.sh` unpack the packs as it does there, runs every stage at its smallest size, and tells the
packs' sizes. Results lie in .gpu/rehearsal.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from pack import LIMIT, PACKS, ROOT, TOGETHER, archive_of, carried, read_packs, sizes

MACHINE = ROOT / ".gpu" / "machine"
LIST = Path(__file__).parent / "machine.txt"
RESULTS = ROOT / ".gpu" / "rehearsal"
STAGES = {"check": 5, "speeds": 15, "viewpoint_cost": 5, "demonstrations": 15, "comparison": 15}
"""Stages with minutes on a CPU, in the order of the README."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", nargs="*", help="all if none is named")
    stages = parser.parse_args(arguments).stages or list(STAGES)
    if missing := [name for name in read_packs() if not archive_of(name).exists()]:
        sys.exit(f"not packed yet: {', '.join(missing)}; run `make gpu-pack`")
    python = make_machine()
    for folder in (ROOT / ".gpu" / "site", RESULTS, ROOT / "outputs" / "gpu" / "smallest"):
        if len(stages) == len(STAGES):
            shutil.rmtree(folder, ignore_errors=True)
    lines, failed = [], []
    for stage in stages:
        began = time.monotonic()
        status = run_stage(stage, python, RESULTS, STAGES[stage])
        lines.append(f"{stage}: exit status {status}, {time.monotonic() - began:.0f} s")
        failed += [stage] if status else []
    print("\n" + "\n".join([*lines, sizes()]))
    if failed or any(carried(call) > LIMIT for call in TOGETHER):
        sys.exit(f"failed: {', '.join(failed)}" if failed else f"too large: {PACKS}")


def run_stage(stage: str, python: Path, results: Path, minutes: float) -> int:
    """The exit status of a stage at its smallest size, with this interpreter."""
    environment = {**os.environ, "PYTHON": str(python), "OUT": str(results)}
    command = ["bash", str(ROOT / "benchmarks" / "gpu" / "run.sh"), stage, "--smallest"]
    command += ["--minutes", str(minutes)]
    return subprocess.run(command, env=environment, cwd=ROOT).returncode


def make_machine() -> Path:
    """The interpreter of an environment with the packages of machine.txt, made if it is not there
    yet; of what the list leaves open CUDA's parts are those of constraints.txt, the rest is new."""
    python, made = MACHINE / "bin" / "python", MACHINE / "made-from.txt"
    if made.exists() and made.read_text() == LIST.read_text():
        return python
    shutil.rmtree(MACHINE, ignore_errors=True)
    constraints = MACHINE.with_name("constraints.txt")
    lines = (ROOT / "constraints.txt").read_text().splitlines(keepends=True)
    MACHINE.parent.mkdir(exist_ok=True)
    constraints.write_text("".join(line for line in lines if line.startswith(("nvidia-", "cuda-"))))
    subprocess.run(["uv", "venv", "--quiet", "--python", "3.12", str(MACHINE)], check=True)
    install = ["uv", "pip", "install", "--quiet", "--no-deps", "--python", str(python)]
    subprocess.run([*install, "-c", str(constraints), "-r", str(LIST)], check=True)
    made.write_text(LIST.read_text())
    return python


if __name__ == "__main__":
    main()
