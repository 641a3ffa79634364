"""Stage E: what viewpoint augmentation costs on this device; `benchmarks/viewpoint.py` without its
scenes, which need a renderer. Results: `viewpoint.json`.
"""

from __future__ import annotations

import sys

from stage import ROOT, begin, run_within, seconds_left, stage_parser


def main() -> None:
    options = stage_parser(__doc__, minutes=1).parse_args()
    begin(options, ["base"], [])
    command = [sys.executable, str(ROOT / "benchmarks" / "viewpoint.py"), "--costs-only"]
    command += ["--out", str(options.out / "viewpoint.json")]
    status = run_within(
        [*command, *(["--quick"] if options.smallest else [])], seconds_left(options)
    )
    sys.exit("out of time" if status is None else status)


if __name__ == "__main__":
    main()
