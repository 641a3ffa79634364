"""The log of episodes: nothing lost, nothing twice, nothing foreign taken in."""

from dataclasses import replace
from pathlib import Path

import pytest

from e0_bench.closed_loop.episodes import EpisodeLog, EpisodeLogError, EpisodeResult

RESULT = EpisodeResult("e0", "Push", 1, "none", True, 7, 0.5, [1.5, 1.25], 2, 3.5, "push it")


def test_cut_line_is_replaced_by_the_next_result(tmp_path: Path) -> None:
    path = tmp_path / "new" / "episodes.jsonl"
    with EpisodeLog(path) as log:
        assert log.results == {}
        log.append(RESULT)
    whole = path.read_text()
    second, third = replace(RESULT, seed=2), replace(RESULT, seed=3, success=False)
    path.write_text(whole + second.to_json()[:-20])
    with EpisodeLog(path) as log:
        assert log.results == {RESULT.job: RESULT}
        log.append(second)
        assert path.read_text() == whole + second.to_json() + "\n", "kept before append returns"
        log.append(third)
    with EpisodeLog(path) as log:
        assert list(log.results.values()) == [RESULT, second, third]


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1, 2]",
        "7",
        '{"seed": 1}',
        RESULT.to_json()[:-1],
        RESULT.to_json().replace("true", "1"),
        RESULT.to_json().replace('"control"', '"blackout"'),
    ],
)
def test_broken_line_within_is_named_and_the_file_left_alone(line: str, tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    content = f"{RESULT.to_json()}\n{line}\n{replace(RESULT, seed=2).to_json()}\n" + '{"cut'
    path.write_text(content)
    with (
        pytest.raises(EpisodeLogError, match="not an episode's result \\(line 2: "),
        EpisodeLog(path),
    ):
        pass
    assert path.read_text() == content


def test_episode_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text(2 * (RESULT.to_json() + "\n"))
    with pytest.raises(EpisodeLogError, match="an episode twice \\(line 2"), EpisodeLog(path):
        pass


def test_two_writers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    first, second = EpisodeLog(path), EpisodeLog(path)
    with first, pytest.raises(EpisodeLogError, match="another process is writing"), second:
        pass
    with second as log:
        log.append(RESULT)
