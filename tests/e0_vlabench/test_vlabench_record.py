"""What the client writes is a benchmark's: nothing is overwritten, and `e0 bench` reads it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from e0_bench.closed_loop.episodes import EpisodeLog, EpisodeResult
from e0_bench.closed_loop.record import check_log, read_record
from e0_bench.closed_loop.summary import markdown, summarize
from e0_vlabench.errors import RecordMismatchError
from e0_vlabench.record import extended_record, results_table
from e0_vlabench.tasks import Episode

URL, SERVED = "ws://127.0.0.1:8000", {"policy": "e0", "checkpoint": "abc"}
FRUIT = "track_1_in_distribution/select_fruit"
EPISODES = {FRUIT: [Episode(FRUIT, "select_fruit", k) for k in range(2)]}
RESULT = EpisodeResult(
    *("mine", FRUIT, 0, "none", True, 60, 0.0, [], 8, 9.5, "Put the banana into the plate"),
    intention_score=1.0,
    progress_score=1.0,
    released_progress_score=1.0,
)
FAILED = replace(*(RESULT,), seed=1, success=False, progress_score=0.2, released_progress_score=0.5)


def opened(out: Path, label: str = "mine", seed: int = 0, **served: Any) -> EpisodeLog:
    return extended_record(out, label, URL, SERVED | served, EPISODES, seed)


def test_e0_bench_reads_what_the_client_writes(tmp_path: Path) -> None:
    for label in ("mine", "other"):
        log = opened(tmp_path, label, checkpoint=label)
        log.append(replace(RESULT, policy=label))
        log.append(replace(FAILED, policy=label))
    record = read_record(tmp_path)
    assert record["environment"]["type"] == "vlabench"
    assert record["policies"].keys() == {"mine", "other"} and record["tasks"] == {FRUIT: [FRUIT]}
    log = EpisodeLog(tmp_path / "episodes.jsonl")
    check_log(log, record)
    results = list(log.results.values())
    assert results[:2] == [RESULT, FAILED]
    text = markdown(summarize(results, ["mine", "other"], [FRUIT], []))
    assert "1/2, 50 %" in text and FRUIT in text


def test_the_table_has_intervals_and_mean_scores(tmp_path: Path) -> None:
    lines = results_table([RESULT, FAILED, replace(RESULT, task="heat_food", progress_score=None)])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines.splitlines()]
    assert rows[0] == [
        *("policy", "task", "success", "progress", "intention", "progress by the code")
    ]
    assert rows[2][1:] == ["heat_food", "1/1 (100 %, 95 % interval 21–100 %)", "", "1.00", "1.00"]
    assert rows[3][1:] == [FRUIT, "1/2 (50 %, 95 % interval 9–91 %)", "0.60", "1.00", "0.75"]


def test_another_policy_under_a_label_another_seed_or_environment_is_refused(
    tmp_path: Path,
) -> None:
    opened(tmp_path).append(RESULT)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(RecordMismatchError, match=r"another checkpoint under 'mine'.*--label"):
        opened(tmp_path, checkpoint="another")
    with pytest.raises(RecordMismatchError, match=r"'seed': 0.*not .*'seed': 5.*another --out"):
        opened(tmp_path, seed=5)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert RESULT.job in opened(tmp_path).results
    (tmp_path / "benchmark.json").write_text('{"environment": {"type": "maniskill"}, "seed": 0}')
    with pytest.raises(RecordMismatchError, match="maniskill"):
        opened(tmp_path)


def test_episodes_of_unknown_origin_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "episodes.jsonl").write_text(RESULT.to_json() + "\n")
    with pytest.raises(RecordMismatchError, match=r"without a benchmark\.json"):
        opened(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["episodes.jsonl"]
