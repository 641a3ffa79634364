"""Stage D: train the recipe's policies and measure each in closed loop, one after the other, E0
first, so that a call that ends early has what it came to. Needs stage C's demonstrations on the
same machine. Called again it goes on, but not on another machine: trained weights are too large to
be brought back.

Results, after each policy: `comparison.json`, `comparison.md` and `episodes.jsonl` (a line an
episode) of `e0 compare`, and `comparison-stage.json`, {"seconds", "workers", "policies": rows}; a
row has "policy", "outcome", "seconds".
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import tomllib

from stage import DATA, begin, recipe, run_within, seconds_left, stage_parser

NAME = "comparison-stage.json"
SPARE_CORES = 2


def main() -> None:
    parser = stage_parser(__doc__, minutes=9)
    parser.add_argument("--policies", nargs="+", help="of the recipe's, in this order; all if none")
    options = parser.parse_args()
    begin(options, ["base", "sapien", "maniskill"], [])
    from e0_bench.files import write_json

    path = recipe(options.smallest)
    output = DATA / ("smallest" if options.smallest else "comparison")
    if not (output / "dataset" / "meta" / "collection.json").exists():
        sys.exit(f"no demonstrations in {output}: run the stage `demonstrations` to its end first")
    workers = 2 if options.smallest else max(2, (os.cpu_count() or 2) - SPARE_CORES)
    labels = options.policies or list(tomllib.loads(path.read_text())["policies"])
    rows: list[dict[str, object]] = []
    for count, label in enumerate(labels, 1):
        began = time.monotonic()
        command = [sys.executable, "-m", "e0_bench.cli", "compare", str(path)]
        command += ["--output", str(output), "--workers", str(workers)]
        command += ["--policies", *labels[:count]]
        status = run_within(command, seconds_left(options))
        outcome = {None: "out of time", 0: "done"}.get(status, f"exit status {status}")
        seconds = round(time.monotonic() - began, 1)
        rows.append({"policy": label, "outcome": outcome, "seconds": seconds})
        write_json(options.out / NAME, {"workers": workers, "policies": rows})
        for name in ("comparison.json", "comparison.md", "benchmark/episodes.jsonl"):
            if (output / name).exists():
                shutil.copy(output / name, options.out)
        if status != 0:
            break
    print("\n".join(str(row) for row in rows))
    if rows[-1]["outcome"] != "done":
        sys.exit(f"ended at {rows[-1]['policy']}: {rows[-1]['outcome']}")


if __name__ == "__main__":
    main()
