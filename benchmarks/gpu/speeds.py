"""Stage B: speed. `benchmarks/speed.py` for each preset, beside LeRobot's pi-0 and pi-0.5.

Each preset is a process of its own, so that its memory is free again and an error ends it alone.
Results: `speed-PRESET.json`, one a preset, written after each thing that was measured.
"""

from __future__ import annotations

import sys

from stage import ROOT, begin, run_within, seconds_left, stage_parser

PLAN = (
    ("paligemma_pi0", "lerobot-pi0", 20),
    ("small", "none", 50),
    ("paligemma", "lerobot-pi05", 20),
    ("tiny", "none", 50),
)
"""Preset, peer, runs: first what matters most."""
OUT_OF_TIME = 75  # of speed.py


def main() -> None:
    options = stage_parser(__doc__, minutes=9).parse_args()
    names = {preset: f"speed-{preset}.json" for preset, _, _ in PLAN}
    begin(options, ["base"], list(names.values()))
    outcomes = {}
    for preset, peer, runs in PLAN:
        left = seconds_left(options)
        command = [sys.executable, str(ROOT / "benchmarks" / "speed.py"), "--resume"]
        command += ["--preset", preset, "--against", peer, "--runs", str(runs)]
        command += ["--minutes", str(left / 60), "--out", str(options.out / names[preset])]
        status = run_within([*command, *(["--dry-run"] if options.smallest else [])], left)
        known = {None: "out of time", OUT_OF_TIME: "out of time", 0: "done"}
        outcomes[preset] = known.get(status, f"exit status {status}")
    print("\n".join(f"{preset}: {outcome}" for preset, outcome in outcomes.items()))
    if set(outcomes.values()) != {"done"}:
        sys.exit("not complete; called again, with --earlier where needed, it goes on")


if __name__ == "__main__":
    main()
