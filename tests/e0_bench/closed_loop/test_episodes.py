"""The log of episodes: nothing lost, nothing twice, nothing foreign taken in."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from e0_bench.closed_loop.episodes import EpisodeLog, EpisodeLogError, EpisodeResult

RESULT = EpisodeResult("e0", "Push", 1, "none", True, 7, 0.5, [1.5, 1.25], 2, 3.5, "push it")


def test_cut_line_is_replaced_by_the_next_result(tmp_path: Path) -> None:
    path = tmp_path / "new" / "episodes.jsonl"
    log = EpisodeLog(path)
    assert log.results == {}
    log.append(RESULT)
    whole = path.read_text()
    second, third = replace(RESULT, seed=2), replace(RESULT, seed=3, success=False)
    path.write_text(whole + second.to_json()[:-20])
    log = EpisodeLog(path)
    assert log.results == {RESULT.job: RESULT}
    log.append(second)
    assert path.read_text() == whole + second.to_json() + "\n", "kept before append returns"
    log.append(third)
    assert list(EpisodeLog(path).results.values()) == [RESULT, second, third]
    assert [file.name for file in path.parent.iterdir()] == ["episodes.jsonl"]


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
        RESULT.to_json().replace("}", ', "way": "left"}'),
        RESULT.to_json().replace("}", ', "progress_score": true}'),
        RESULT.to_json(),  # once more
    ],
)
def test_a_bad_line_is_set_aside_with_the_next_result_and_told(
    line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "episodes.jsonl"
    second, third = replace(RESULT, seed=2), replace(RESULT, seed=3)
    content = f"{RESULT.to_json()}\n{line}\n{second.to_json()}\n" + '{"cut'
    path.write_text(content)
    log = EpisodeLog(path)
    assert list(log.results.values()) == [RESULT, second]
    assert "episodes.jsonl" in caplog.text and "(line 2: " in caplog.text
    assert path.read_text() == content, "changed before there is a result"
    log.append(third)
    assert path.read_text().splitlines() == [r.to_json() for r in (RESULT, second, third)]
    assert (tmp_path / "episodes.jsonl.bad").read_text() == line + "\n"
    caplog.clear()
    assert list(EpisodeLog(path).results.values()) == [RESULT, second, third]
    assert not caplog.text


def test_what_was_set_aside_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    for number, line in enumerate(("bad", "worse")):
        path.write_text(f"{RESULT.to_json()}\n{line}\n")
        EpisodeLog(path).append(replace(RESULT, seed=number + 2))
    assert (tmp_path / "episodes.jsonl.bad").read_text() == "bad\nworse\n"


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text("Dear diary,\n")
    with pytest.raises(EpisodeLogError, match=r"no log of episodes \(line 1: "):
        EpisodeLog(path)
    assert path.read_text() == "Dear diary,\n"


def test_what_an_older_log_does_not_tell_is_none(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    told = replace(RESULT, seed=2, evaluations=1.5, way=0, changes_of_mind=0, between=False)
    older = RESULT.to_json()
    assert not {"evaluations", "way", "changes_of_mind", "between"} & json.loads(older).keys()
    path.write_text(f"{older}\n{told.to_json()}\n")
    assert list(EpisodeLog(path).results.values()) == [RESULT, told]
