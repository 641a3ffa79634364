"""Stage C: demonstrations of all tasks of the recipe, rendered on the GPU, each task by a process
that writes and others that simulate. What it makes stays on the machine, for stage D.

Results, `demonstrations.json`: {"seconds", "workers", "rendering", "complete", "episodes": rows}; a
row has "part" (dataset or held_out), "task", "episodes", "tries". Called again it goes on.
"""

from __future__ import annotations

import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from stage import DATA, begin, recipe, run_within, seconds_left, stage_parser

NAME = "demonstrations.json"
WORKERS_OF_A_TASK = 3
"""On 16 cores with six tasks a few more than cores: some wait for the renderer or the writer."""


def main() -> None:
    options = stage_parser(__doc__, minutes=9).parse_args()
    begin(options, ["base", "sapien", "maniskill"], [])
    from e0_bench.files import write_json
    from e0_maniskill.rendering import rendering_available

    available, reason = rendering_available()
    print(f"Rendering: {reason}", flush=True)
    if not available:
        write_json(options.out / NAME, {"complete": False, "rendering": reason, "episodes": []})
        sys.exit("nothing here can render, and the recipe's policies need pictures")
    tasks = tomllib.loads(recipe(options.smallest).read_text())["dataset"]["tasks"]
    workers = len(tasks) * (2 if options.smallest else WORKERS_OF_A_TASK)
    output = DATA / ("smallest" if options.smallest else "comparison")
    began = time.monotonic()
    command = [sys.executable, "-m", "e0_bench.cli", "compare", str(recipe(options.smallest))]
    command += ["--output", str(output), "--workers", str(workers), "--demonstrations-only"]
    status = run_within(command, seconds_left(options))
    results = {
        "seconds": round(time.monotonic() - began, 1),
        "workers": workers,
        "rendering": reason,
        "complete": status == 0,
        "episodes": [row for part in ("dataset", "held_out") for row in episodes(output, part)],
    }
    write_json(options.out / NAME, results)
    print("\n".join(str(row) for row in results["episodes"]))
    if status != 0:
        sys.exit("out of time: call it again to go on" if status is None else status)


def episodes(output: Path, part: str) -> list[dict[str, Any]]:
    """How many there are of each task, of a finished dataset or one that was begun, in which some
    tasks' own datasets may be finished."""
    from e0_bench.files import read_json

    whole, begun = output / part / "meta" / "collection.json", output / f"{part}.partial"
    counts: dict[str, tuple[int, int]] = {}
    if not whole.exists():
        folders = (*begun.glob("episodes/*"), *begun.glob("parts/*.partial/episodes/*"))
        for folder in sorted(folders):
            if folder.is_dir():
                done = len(list(folder.glob("*.npz")))
                counts[folder.name] = done, done + len(list(folder.glob("*.failed.json")))
    for record in [whole] if whole.exists() else sorted(begun.glob("parts/*/meta/collection.json")):
        for task, own in read_json(record)["collected"].items():
            counts[task] = len(own["seeds"]), own["tries"]
    return [
        {"part": part, "task": task, "episodes": done, "tries": tries}
        for task, (done, tries) in counts.items()
    ]


if __name__ == "__main__":
    main()
