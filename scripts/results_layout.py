"""Lay the result files of benchmarks/results out anew: a row a line (`e0_bench.files.json_lines`).

python scripts/results_layout.py
"""

from __future__ import annotations

import json
from pathlib import Path

from e0_bench.files import write_json

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def main() -> None:
    for path in sorted(RESULTS.glob("*.json")):
        before = json.loads(path.read_text())
        write_json(path, before)
        assert json.loads(path.read_text()) == before


if __name__ == "__main__":
    main()
