"""The command `e0-vlabench`: tasks and tracks of VLABench with a policy that `e0 serve` serves."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from e0_bench.closed_loop.episodes import EpisodeJob, EpisodeLog, EpisodeResult
from e0_server import TOKEN
from e0_system.files import write_text
from e0_system.locks import own_directory
from e0_vlabench.errors import EpisodeError
from e0_vlabench.installation import import_vlabench, require_assets, vlabench_root
from e0_vlabench.policy import ServedPolicy
from e0_vlabench.record import extended_record, results_table
from e0_vlabench.tasks import Episode, asked_episodes, track_files


@dataclass(frozen=True)
class Settings:
    """What is asked for; the flags are described in `_parser`."""

    server: str
    tasks: list[str]
    out: Path
    episodes: int
    seed: int
    label: str | None


def run(settings: Settings) -> list[str]:
    """Run what is missing of the episodes; return why some could not be set up.

    Finished episodes are in `out/episodes.jsonl` and are not run again; all of them are in
    `out/table.md`. Raises VLABenchClientError, PolicyServerError, EpisodeLogError, DamagedFileError
    or DirectoryInUseError.
    """
    with closing(ServedPolicy(settings.server, token=os.environ.get(TOKEN) or None)) as policy:
        root = vlabench_root()
        require_assets(root)
        envs, known = import_vlabench()
        from e0_vlabench.episodes import run_episode  # it needs what VLABench needs

        label = settings.label or str(policy.metadata["policy"])
        episodes = asked_episodes(
            settings.tasks, track_files(root), known, settings.seed, settings.episodes
        )
        _tell_of_short_tracks(episodes, settings.episodes)
        with own_directory(settings.out):
            log = extended_record(
                settings.out, label, settings.server, policy.metadata, episodes, settings.seed
            )
            every = [episode for some in episodes.values() for episode in some]
            failed = _run_missing(log, label, every, partial(run_episode, policy, envs, root))
            if log.results:
                text = results_table(log.results.values())
                write_text(settings.out / "table.md", text)
                print(text)
    return failed


def _run_missing(
    log: EpisodeLog,
    label: str,
    episodes: Sequence[Episode],
    run_one: Callable[[str, Episode], EpisodeResult],
) -> list[str]:
    """Run the episodes that the log lacks; return why some could not be set up."""
    failed = []
    for episode in episodes:
        if EpisodeJob(label, episode.name, episode.seed) in log.results:
            continue
        try:
            result = run_one(label, episode)
        except EpisodeError as error:
            failed.append(str(error))
            print(f"not run: {error}", file=sys.stderr)
            continue
        log.append(result)
        solved = "solved" if result.success else "not solved"
        told = f"{episode.name}, episode {episode.seed}: {solved}, {result.steps} steps"
        print(told, flush=True)
    return failed


def _tell_of_short_tracks(episodes: Mapping[str, Sequence[Episode]], asked: int) -> None:
    """Say which tasks have fewer episodes in their track than were asked for."""
    counts = Counter(episode.name for some in episodes.values() for episode in some)
    for name, count in counts.items():
        if count < asked:
            print(f"{name}: {count} episodes, as many as its track has", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exit with 1 for what cannot be run."""
    settings = Settings(**vars(_parser().parse_args(arguments)))
    try:
        failed = run(settings)
    except (ValueError, RuntimeError, OSError) as error:  # ours, by name, are of these
        sys.exit(f"e0-vlabench: {error}")
    if failed:
        sys.exit(f"e0-vlabench: not run: {len(failed)} episodes; the same command tries again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="e0-vlabench", description=__doc__)
    parser.add_argument("server", help="ws://HOST:PORT of e0 serve CHECKPOINT --robot vlabench")
    parser.add_argument(
        "--tasks",
        nargs="+",
        required=True,
        type=str,
        metavar="TASK",
        help="tasks, tracks, or tasks of a track, as in track_1_in_distribution/select_fruit",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory of the results")
    parser.add_argument(
        "--episodes", type=_positive, default=50, help="of each task; those of a track have 50"
    )
    parser.add_argument(
        "--seed", type=_count, default=0, help="the first episode's; in a track its number"
    )
    parser.add_argument("--label", help="what the policy is called; its type if not given")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    if (number := _count(text)) < 1:
        raise argparse.ArgumentTypeError("expected at least 1")
    return number


if __name__ == "__main__":
    main()
