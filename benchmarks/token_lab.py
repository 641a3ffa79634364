"""Compare all objectives on a small synthetic problem, in minutes and without a GPU.

    python benchmarks/token_lab.py --out results.json --table table.md --figure figure.png

Stopped, it goes on where it was when the same command is given again. How each objective is decoded
best is found on trainings of their own, and measured on others:

    python benchmarks/token_lab.py --sweep --out sweep.json
    python benchmarks/token_lab.py --decodings sweep.json --bins 256 --out results.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from e0_bench.files import write_text
from e0_bench.token_lab.picks import best_runs, sweep_runs
from e0_bench.token_lab.report import draw_figure, markdown_tables
from e0_bench.token_lab.results import ResultsFile
from e0_bench.token_lab.runner import run_lab
from e0_bench.token_lab.settings import (
    OBJECTIVES,
    REFERENCES,
    LabSettings,
    UnknownVariantError,
    parse_variant,
    plan_runs,
)
from e0_bench.token_lab.synthetic_chunks import ChunkProblem

KNOWN = OBJECTIVES | REFERENCES
SLOW = ("e0 one_hot, reflow", "flow, reflow")
QUICK = {
    "objectives": [name for name in KNOWN if name not in SLOW],
    "train_steps": 250,
    "seeds": [0],
    "bins": [256],
    "evaluation_contexts": 16,
    "chunks": 24,
}
SWEEP = {"seeds": [100], "bins": [256]}  # no seed that results are reported of


def main(arguments: list[str] | None = None) -> None:
    parser = _parser()
    given = parser.parse_args(arguments)
    parser.set_defaults(**(QUICK if given.quick else {}) | (SWEEP if given.sweep else {}))
    options = parser.parse_args(arguments)
    try:
        settings = LabSettings(
            problem=ChunkProblem(
                horizon=options.horizon,
                action_dim=options.action_dim,
                modes=options.modes,
                contexts=options.contexts or None,
            ),
            train_steps=options.train_steps,
            evaluation_contexts=options.evaluation_contexts,
            chunks=options.chunks,
        )
        runs = plan_runs(_variants(options), options.bins, options.seeds)
        if options.sweep:
            runs = sweep_runs(runs)
        elif options.decodings is not None:
            runs = best_runs(runs, ResultsFile(options.decodings, settings))
        results = ResultsFile(options.out, settings)
        results.missing(runs)
    except ValueError as error:
        parser.error(str(error))
    rows = run_lab(settings, runs, results, options.workers)
    table = markdown_tables(rows, results.settings)
    print(f"\n{table}")
    if options.table is not None:
        write_text(options.table, table)
    if options.figure is not None:
        draw_figure(rows, results.settings, options.figure)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="JSON file of results; finished runs are kept")
    add("--table", type=Path, help="write the tables here, too (Markdown)")
    add("--figure", type=Path, help="write the figure here (PNG, SVG or PDF)")
    add("--quick", action="store_true", help="a few minutes on 2 cores: fewer steps, one seed")
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--sweep", action="store_true",
        help="measure every decoding of each objective, on a seed for tuning, and tell the best",
    )  # fmt: skip
    ways.add_argument(
        "--decodings", type=Path, metavar="FILE",
        help="results of a sweep: measure the decodings that were best there, too",
    )  # fmt: skip
    add(
        "--objectives", nargs="+", choices=KNOWN, default=list(KNOWN), metavar="NAME",
        help=f"of: {', '.join(KNOWN)} (default: all)",
    )  # fmt: skip
    add(
        "--variant", action="append", default=[], metavar="NAME:KEY=VALUE,...",
        help='another variant of the policy, such as "e0 T=.5:objective=e0,temperature=0.5"',
    )  # fmt: skip
    add("--bins", type=int, nargs="+", default=[256, 2048], metavar="V")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--train-steps", type=int, default=1200)
    add("--evaluation-contexts", type=int, default=32)
    add("--chunks", type=int, default=48, help="sampled in each of these contexts")
    add("--workers", type=int, default=2, help="runs side by side, one core each")
    add("--horizon", type=int, default=8)
    add("--action-dim", type=int, default=4)
    add("--modes", type=int, default=4)
    add("--contexts", type=int, default=32, help="of the problem; 0: new ones in every batch")
    return parser


def _variants(options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """The chosen objectives, the extra variants (not under a known name), then the references."""
    own: dict[str, dict[str, object]] = {}
    for text in options.variant:
        name, overrides = parse_variant(text)
        if name in KNOWN or name in own:
            raise UnknownVariantError(f"the name {name!r} is taken; give the variant another one")
        own[name] = overrides
    chosen = {name: KNOWN[name] for name in KNOWN if name in options.objectives}
    references = {name: chosen.pop(name) for name in REFERENCES if name in chosen}
    return chosen | own | references


if __name__ == "__main__":
    main()
