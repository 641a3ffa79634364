"""What an output directory holds: `benchmark.json`, as `e0 bench` writes it, and a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from e0_bench.closed_loop.episodes import EpisodeLog, EpisodeResult
from e0_bench.files import read_json, write_json
from e0_bench.statistics import Rate
from e0_bench.tables import table
from e0_vlabench.errors import RecordMismatchError
from e0_vlabench.tasks import Episode

ENVIRONMENT = {"type": "vlabench", "options": {}}
SCORES = {
    "progress": "progress_score",
    "intention": "intention_score",
    "progress by the code": "released_progress_score",
}


def extended_record(
    out: Path,
    label: str,
    url: str,
    metadata: Mapping[str, Any],
    episodes: Mapping[str, Sequence[Episode]],
    seed: int,
) -> EpisodeLog:
    """The log of `out`, after its `benchmark.json` was made or extended by a policy and tasks.

    label: the policy's name; url, metadata: its server's. Raises RecordMismatchError if `out` holds
    another benchmark, or under this label another policy; EpisodeLogError and DamagedFileError for
    files that cannot be read.
    """
    path = out / "benchmark.json"
    policy = {"checkpoint": url, "files": {"checkpoint": metadata.get("checkpoint")}}
    record: dict[str, Any] = {
        "environment": ENVIRONMENT,
        "seed": seed,
        "policies": {label: policy},
        "tasks": {name: list(dict.fromkeys(e.name for e in episodes[name])) for name in episodes},
    }
    if path.exists():
        record = _merged(out, read_json(path), record)
    elif (out / "episodes.jsonl").exists():
        raise RecordMismatchError(
            f"{out} holds episodes without a benchmark.json beside them; choose another --out"
        )
    log = EpisodeLog(out / "episodes.jsonl")
    write_json(path, record)
    return log


def _merged(out: Path, before: Any, record: dict[str, Any]) -> dict[str, Any]:
    expected = {"environment": ENVIRONMENT, "seed": record["seed"]}
    held = {key: before.get(key) if isinstance(before, dict) else None for key in expected}
    if held != expected:
        raise RecordMismatchError(f"{out} holds {held}, not {expected}; choose another --out")
    for label, policy in record["policies"].items():
        known = before["policies"].get(label)
        if known is not None and known["files"] != policy["files"]:
            raise RecordMismatchError(
                f"{out} holds episodes of another checkpoint under {label!r}; choose another "
                "--label, or another --out"
            )
    return record | {key: before[key] | record[key] for key in ("policies", "tasks")}


def results_table(results: Iterable[EpisodeResult]) -> str:
    """A row for each policy and task: success with its 95 % Wilson interval, and mean scores."""
    by_row: dict[tuple[str, str], list[EpisodeResult]] = {}
    for result in results:
        by_row.setdefault((result.policy, result.task), []).append(result)
    rows = [
        [*names, str(Rate(sum(r.success for r in some), len(some))), *_means(some)]
        for names, some in sorted(by_row.items())
    ]
    return table(["policy", "task", "success", *SCORES], rows) + "\n"


def _means(results: Sequence[EpisodeResult]) -> list[str]:
    told = [[getattr(result, name) for result in results] for name in SCORES.values()]
    return ["" if None in some else f"{fmean(some):.2f}" for some in told]
