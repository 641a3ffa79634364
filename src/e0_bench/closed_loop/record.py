"""What the output directory of a benchmark holds, which must be the benchmark that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from e0_bench.closed_loop.checkpoints import Checkpoint
from e0_bench.closed_loop.episodes import EpisodeLog
from e0_bench.closed_loop.settings import BenchmarkSettings
from e0_bench.files import read_json


class BenchmarkMismatchError(ValueError):
    """The output directory holds another benchmark; nothing in it was changed."""


def read_record(out: Path) -> dict[str, Any]:
    """What `out` is a benchmark of; empty for a new directory."""
    path, episodes = out / "benchmark.json", out / "episodes.jsonl"
    if path.exists():
        try:
            record = read_json(path)
            if "denoising_steps" in record and record["denoising_steps"] is not None:
                raise ValueError("it was made with another number of denoising steps for all")
            return {key: record[key] for key in ("environment", "seed")} | {
                key: dict(record[key]) for key in ("policies", "tasks")
            }
        except (ValueError, KeyError, TypeError) as error:
            raise BenchmarkMismatchError(
                f"{path} does not describe a benchmark ({error!r}); choose another --out"
            ) from error
    if episodes.exists() and episodes.stat().st_size:
        raise BenchmarkMismatchError(
            f"{episodes} holds episodes of another run, without a benchmark.json beside it; choose "
            "another --out"
        )
    return {}


def extended_record(
    settings: BenchmarkSettings, checkpoints: Sequence[Checkpoint], recorded: Mapping[str, Any]
) -> dict[str, Any]:
    """The record with the new policies; BenchmarkMismatchError if it is of another benchmark."""
    record: dict[str, Any] = {
        "environment": {"type": settings.env, "options": settings.environment.changed_options()},
        "seed": settings.seed,
        "policies": {checkpoint.label: checkpoint.record() for checkpoint in checkpoints},
        "tasks": {},
    }
    if not recorded:
        return record
    for key in ("environment", "seed"):
        if recorded[key] != record[key]:
            raise BenchmarkMismatchError(
                f"{settings.out} holds a benchmark with another {key.replace('_', ' ')}: "
                f"{recorded[key]}, not {record[key]}; choose another --out"
            )
    for label, entry in record["policies"].items():
        before = recorded["policies"].get(label)
        if before is not None and before.get("decoding") != entry.get("decoding"):
            raise BenchmarkMismatchError(
                f"{settings.out} holds episodes of {label!r} decoded by {before.get('decoding')}, "
                f"not {entry.get('decoding')}; choose another name, or another --out"
            )
        if before is not None and before["files"] != entry["files"]:
            changed = [
                name
                for name in sorted(before["files"].keys() | entry["files"].keys())
                if before["files"].get(name) != entry["files"].get(name)
            ]
            raise BenchmarkMismatchError(
                f"{settings.out} holds episodes of another policy {label!r}: "
                f"{', '.join(changed)} of {entry['checkpoint']} differ; choose another label with "
                "--labels, or another --out"
            )
    record["policies"] = recorded["policies"] | record["policies"]
    record["tasks"] = recorded["tasks"]
    return record


def check_log(log: EpisodeLog, recorded: Mapping[str, Any]) -> None:
    policies = recorded.get("policies", {})
    tasks = {name for names in recorded.get("tasks", {}).values() for name in names}
    for job in log.results:
        if job.policy not in policies or job.task not in tasks:
            raise BenchmarkMismatchError(
                f"{log.path} holds an episode of another run ({job}); choose another --out"
            )
