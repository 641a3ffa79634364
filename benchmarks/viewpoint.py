"""How close a warped picture comes to that of a camera which really moved, and what warping costs.

    python benchmarks/viewpoint.py --out results.json --table table.md --strips strips.png

Rows of the results: {"task", "seed", "step", "shift": [azimuth, elevation, radius, roll], "method",
"psnr" (dB), "ssim", "seen" (share of pixels that the home camera has seen)}; costs apart.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from e0_bench.files import write_json, write_text
from e0_bench.viewpoint.cost import measure_cost, measure_training
from e0_bench.viewpoint.figures import draw_strips
from e0_bench.viewpoint.tables import viewpoint_tables
from e0_bench.viewpoint.truth import measure

TASKS = ("PushCube-v1", "PickCube-v1", "StackCube-v1", "PegInsertionSide-v1")
FIRST_SEED = 990_000
STEPS = (0, 12)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tasks = () if options.costs_only else TASKS[:2] if options.quick else TASKS
    count = 2 if options.quick else options.scenes
    scenes = [(t, FIRST_SEED + i, s) for t in tasks for i in range(count) for s in STEPS]
    rows: list[dict[str, Any]] = []
    for task, seed, steps in tqdm(scenes, desc="Scenes", unit="scene"):
        rows += measure(task, seed, steps)
    repetitions = 5 if options.quick else 30
    machine = {
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    results = {"viewpoint": rows, "costs": measure_cost(device, repetitions)}
    _write(options, results | {"machine": machine})  # in case that the rest comes to no end
    results |= {"training": measure_training(device, repetitions), "machine": machine}
    _write(options, results)
    table = viewpoint_tables(results)
    print(f"\n{table}")
    if options.table is not None:
        write_text(options.table, table)
    if options.strips is not None and tasks:
        draw_strips(tasks[1], FIRST_SEED, STEPS[-1], options.strips)


def _write(options: argparse.Namespace, results: dict[str, Any]) -> None:
    if options.out is not None:
        write_json(options.out, results)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"a CPU ({platform.machine()})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, help="JSON file of results")
    add("--table", type=Path, help="write the tables here, too (Markdown)")
    add("--strips", type=Path, help="write strips of pictures here (PNG)")
    add("--scenes", type=int, default=5, help="seeds of each task, each seen at two steps")
    add("--device", help="where the costs are measured; a GPU if there is one")
    add("--quick", action="store_true", help="two tasks, two seeds")
    add("--costs-only", action="store_true", help="no scenes, which need a simulator")
    return parser


if __name__ == "__main__":
    main()
