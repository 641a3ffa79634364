"""How fast E0 makes chunks and trains, beside LeRobot's pi-0 and the machine's floor.

    python benchmarks/speed.py --preset tiny --out results.json
    python benchmarks/speed.py --preset paligemma --against lerobot-pi05 --out results.json
    python benchmarks/speed.py --preset paligemma_pi0 --against lerobot-pi0 --dry-run --out r.json

Chunks go from float pictures of 480 x 640 and a prompt with its state to actions, weights are
random, and the peer is measured in turn with ours. With --dry-run all of it runs at a tiny size
with few runs, which checks the script and says nothing about speed. Peers run as LeRobot ships
them: prompts padded to their maximum. On a GPU both are also measured compiled, last because that
takes minutes, and float32 products run as TF32, as LeRobot's programs set it. The targets for one
H200 have not been measured by us yet.

Results: {"speed": rows, "machine": {...}, "done": names, "failed": {name: error}}, written after
each thing that was measured; --resume goes on from there. A row has "what" (chunk, "chunk beside
compiled", vision, prefix, "step, plain", "step, fast", read-out, training step), "policy", the
case (preset, cameras, horizon, steps, batch, vocabulary, grain), "median_ms", "p95_ms", "runs", and
where they apply "floor_ms", "times_floor", "memory_mb" (peak on a GPU of this policy alone),
"samples_per_second", "no_graph" (why no CUDA graph was used).
"""

from __future__ import annotations

import argparse
import gc
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from e0.network.presets import PRESETS
from e0.network.vision import KeypointShape
from e0_bench.files import read_json, write_json
from e0_bench.speed.lerobot_peers import Kind
from e0_bench.speed.timing import (
    Case,
    Machine,
    machine_rates,
    measure_chunks,
    measure_stages,
    measure_training,
    variations,
)

DEBUG = {"paligemma": "paligemma_debug", "paligemma_pi0": "paligemma_pi0_debug"}
LAYOUTS: dict[str, tuple[Kind, str]] = {
    "lerobot-pi0": ("pi0", "paligemma_pi0"),
    "lerobot-pi05": ("pi05", "paligemma"),
}


OUT_OF_TIME = 75
"""Exit status where --minutes ended it; with --resume it goes on."""
VARIED = ("steps", "batch", "vocabulary", "grain")


def main(arguments: list[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    on_gpu = device.type == "cuda"
    torch.backends.cuda.matmul.allow_tf32 = True
    preset, peers = _choose(parser, options, compiled=on_gpu and not options.dry_run)
    horizon = 8 if isinstance(PRESETS[preset].vision, KeypointShape) else 50
    base = Case(preset, options.cameras, horizon, steps=options.denoising_steps)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    runs, warm_up = (3, 0) if options.dry_run else (options.runs, 3)
    machine = Machine(device, dtype, runs, warm_up)
    results = _begun(options, preset, machine)
    with tqdm(desc="Measuring", unit="case") as bar:
        for name, measure in _jobs(options, base, machine, peers).items():
            if name in results["done"]:
                continue
            if time.monotonic() > end:
                print(f"The time is up; missing from {name} on.")
                sys.exit(OUT_OF_TIME)
            bar.set_postfix_str(name)
            _measure(name, measure, results)
            write_json(options.out, results)
            bar.update()
    print(f"\n{markdown(results)}")
    if results["failed"]:
        sys.exit(f"failed: {results['failed']}")


def _jobs(
    options: argparse.Namespace,
    base: Case,
    machine: Machine,
    peers: dict[str, tuple[Kind, bool]],
) -> dict[str, Callable[[], list[dict[str, Any]]]]:
    """Everything that is measured, by name; what may take longest comes last."""
    jobs: dict[str, Callable[[], list[dict[str, Any]]]] = {}
    for case in variations(base):
        what = ", ".join(f"{name} {getattr(case, name)}" for name in VARIED)
        jobs[f"chunk: {what}"] = lambda case=case: measure_chunks(case, machine, _able(peers, case))
    jobs["stages"] = lambda: measure_stages(base, machine)
    few = replace(machine, runs=min(machine.runs, 20))
    batch = Case(
        base.preset, base.cameras, base.horizon, batch=2 if options.dry_run else options.batch
    )
    jobs["training: e0"] = lambda: measure_training(batch, few)
    for name, (kind, is_compiled) in peers.items():
        if not is_compiled:
            jobs[f"training: {name}"] = lambda name=name, kind=kind: measure_training(
                batch, few, name, kind
            )
    if machine.device.type == "cuda" and not options.dry_run:
        compiled = {name: peer for name, peer in peers.items() if peer[1]}
        jobs["compiled"] = lambda: [
            row | {"what": "chunk beside compiled"}
            for row in measure_chunks(base, machine, compiled, compiled=True)
        ]
    return jobs


def _measure(
    name: str, measure: Callable[[], list[dict[str, Any]]], results: dict[str, Any]
) -> None:
    """Add the rows of one thing, or the error with which it ends: the others can still be had."""
    try:
        results["speed"] += measure()
        results["failed"].pop(name, None)
        results["done"].append(name)
    except Exception as error:
        results["failed"][name] = f"{type(error).__name__}: {error}"
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _begun(options: argparse.Namespace, preset: str, machine: Machine) -> dict[str, Any]:
    """The results to go on from, or empty ones. SystemExit if they are of something else."""
    bandwidth, arithmetic = machine_rates(machine.device, machine.dtype)
    on_gpu = machine.device.type == "cuda"
    same = {
        "device": torch.cuda.get_device_name(machine.device)
        if on_gpu
        else f"CPU {platform.machine()}",
        "dtype": str(machine.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "preset": preset,
        "against": options.against,
        "cameras": options.cameras,
        "denoising_steps": options.denoising_steps,
        "batch": options.batch,
        "runs": machine.runs,
        "dry_run": options.dry_run,
    }
    rates = {
        "threads": torch.get_num_threads(),
        "gigabytes_per_second": round(bandwidth / 1e9, 1),
        "teraflops": round(arithmetic / 1e12, 3),
    }
    if not options.resume or not options.out.exists():
        return {"speed": [], "machine": same | rates, "done": [], "failed": {}}
    results = read_json(options.out)
    if different := [name for name in same if results["machine"].get(name) != same[name]]:
        sys.exit(f"{options.out} was measured with another {', '.join(different)}")
    return results


def _choose(
    parser: argparse.ArgumentParser, options: argparse.Namespace, compiled: bool
) -> tuple[str, dict[str, tuple[Kind, bool]]]:
    """The preset, and the peers that are measured with it (name -> kind, compiled)."""
    preset = options.preset
    if options.against == "none":
        return (DEBUG.get(preset, preset) if options.dry_run else preset), {}
    kind, layout = LAYOUTS[options.against]
    if options.dry_run:
        preset = DEBUG[layout]  # a peer has only one layout, so its dry run takes it
    elif preset != layout:
        parser.error(f"{options.against} is compared with --preset {layout}, not {preset}")
    peers = {options.against: (kind, False)}
    return preset, peers | ({f"{options.against} compiled": (kind, True)} if compiled else {})


def _able(peers: dict[str, tuple[Kind, bool]], case: Case) -> dict[str, tuple[Kind, bool]]:
    """Peers that can do the same, without those that would be compiled anew for each case."""
    if case.grain != "step" or case.vocabulary != 256:
        return {}
    return {name: peer for name, peer in peers.items() if not peer[1]}


def markdown(results: dict[str, Any]) -> str:
    """The rows as a table, the machine above it."""
    machine = results["machine"]
    kind = "DRY RUN, no measurement of speed. " if machine["dry_run"] else ""
    lines = [
        f"{kind}{machine['device']}, {machine['threads']} threads, {machine['dtype']}, "
        f"{machine['gigabytes_per_second']} GB/s and {machine['teraflops']} TFLOP/s measured.\n",
        "| what | policy | K | batch | codes | token | median ms | p95 | ×floor | samples/s | MB |",
        "|---" * 11 + "|",
    ]
    for row in results["speed"]:
        cells = [
            row["what"],
            row["policy"],
            *(str(row[name]) for name in ("steps", "batch", "vocabulary", "grain")),
            f"{row['median_ms']:.2f}",
            f"{row['p95_ms']:.2f}",
            *(
                "" if row.get(name) is None else f"{row[name]:g}"
                for name in ("times_floor", "samples_per_second", "memory_mb")
            ),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", default="tiny", choices=sorted(PRESETS), help="sizes of the network")
    add("--against", default="none", choices=["none", *LAYOUTS], help="the peer")
    add("--cameras", type=int, default=2)
    add("--denoising-steps", type=int, default=10)
    add("--batch", type=int, default=8, help="of the training step")
    add("--runs", type=int, default=50, help="of each measurement, after 3 to warm up")
    add("--device", help="a GPU if there is one")
    add("--minutes", type=float, default=float("inf"), help="begin nothing new after so long")
    add("--resume", action="store_true", help="keep what --out holds and measure what is missing")
    add("--out", type=Path, required=True, help="JSON file of results")
    add("--dry-run", action="store_true", help="tiny sizes and 3 runs: checks the script alone")
    return parser


if __name__ == "__main__":
    main()
