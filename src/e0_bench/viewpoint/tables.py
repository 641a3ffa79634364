"""Tables of the viewpoint benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over scenes, one row for every task, shift and method, with the number of scenes."""
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], *row["shift"], row["method"]), []).append(row)
    return [
        {
            **{name: members[0][name] for name in ("task", "shift", "method")},
            "scenes": len(members),
            **{
                name: float(np.mean([member[name] for member in members]))
                for name in ("psnr", "ssim", "seen")
            },
        }
        for members in groups.values()
    ]


def markdown_table(summary: list[dict[str, Any]]) -> str:
    """PSNR in dB (SSIM) of every method at every shift, task by task."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in summary):
        rows = [row for row in summary if row["task"] == task]
        methods = list(dict.fromkeys(row["method"] for row in rows))
        lines += [
            f"**{task}**, {rows[0]['scenes']} scenes: PSNR in dB (SSIM) over the pixels that the "
            "home camera has seen.\n",
            "| azimuth, elevation, radius, roll | seen | " + " | ".join(methods) + " |",
            "|---" * (len(methods) + 2) + "|",
        ]
        for shift in dict.fromkeys(tuple(row["shift"]) for row in rows):
            cells = {r["method"]: r for r in rows if tuple(r["shift"]) == shift}
            told = "{:+g}°, {:+g}°, ×{:g}, {:+g}°".format(*shift)
            values = [f"{cells[m]['psnr']:.1f} ({cells[m]['ssim']:.2f})" for m in methods]
            lines.append(f"| {told} | {cells['home']['seen']:.0%} | " + " | ".join(values) + " |")
        lines.append("")
    return "\n".join(lines)


def cost_table(results: dict[str, Any]) -> str:
    """What 64 pictures take, beside the libraries' warps and beside a training step."""
    machine, training = results["machine"], results["training"]
    lines = [
        f"64 pictures of 224² px, each moved in its own way, on {machine['device']}, "
        f"{machine['threads']} threads, torch {machine['torch']}:\n",
        "| method | ms | ratio |",
        "|---|---|---|",
        *(
            f"| {row['method']} | {row['milliseconds']:.1f} | {row['ratio_to_table_plane']:.2f} |"
            for row in results["costs"]
        ),
        "",
        f"Augmenting 64 pictures of 128² px for a training step of `tiny`, which takes "
        f"{training['step_ms']:.1f} ms:\n",
        "| augmentation | ms | share of both |",
        "|---|---|---|",
        *(
            f"| {row['augmentation']} | {row['milliseconds']:.1f} | {100 * row['share']:.1f} % |"
            for row in training["augmentations"]
        ),
    ]
    return "\n".join(lines) + "\n"


def viewpoint_tables(results: dict[str, Any]) -> str:
    """All tables of a results file of `benchmarks/viewpoint.py`."""
    return f"{markdown_table(summarize(results['viewpoint']))}\n{cost_table(results)}"


def gap_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `benchmarks/viewpoint_gap.py` as Markdown."""
    lines = [
        f"| {row['policy']} | {row['task']} | {row['pictures']} | {row['azimuth']:+.0f}° | "
        f"{row['mean']:.0f} ({row['low']:.0f} to {row['high']:.0f}) | {row['n']} |"
        for row in rows
    ]
    head = [
        "| policy | instruction | pictures | azimuth | error, mm | n |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines])
