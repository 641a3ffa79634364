"""Which episodes are asked for by which names."""

import json
from pathlib import Path

import pytest

from e0_vlabench.errors import UnknownTaskError
from e0_vlabench.tasks import asked_episodes, track_files

TASKS = ("select_fruit", "select_toy", "insert_flower")
TRACK = "track_2_cross_category"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A package of VLABench with one track: 3 episodes of one task, 1 of another."""
    tracks = tmp_path / "configs/evaluation/tracks"
    tracks.mkdir(parents=True)
    setups = {"select_fruit": [{"number": k} for k in range(3)], "insert_flower": [{"number": 0}]}
    (tracks / f"{TRACK}.json").write_text(json.dumps(setups))
    return track_files(tmp_path)


def test_a_track_is_its_tasks_with_its_own_set_ups(files: dict[str, Path]) -> None:
    asked = asked_episodes([TRACK, "select_toy"], files, TASKS, 0, 2)
    told = [(e.name, e.task, e.seed, e.setup) for e in asked[TRACK]]
    assert told == [
        (f"{TRACK}/select_fruit", "select_fruit", 0, {"number": 0}),
        (f"{TRACK}/select_fruit", "select_fruit", 1, {"number": 1}),
        (f"{TRACK}/insert_flower", "insert_flower", 0, {"number": 0}),
    ]
    assert [(e.name, e.seed, e.setup) for e in asked["select_toy"]] == [
        ("select_toy", 0, None),
        ("select_toy", 1, None),
    ]


def test_episodes_go_on_from_the_seed(files: dict[str, Path]) -> None:
    name = f"{TRACK}/select_fruit"
    assert [e.setup for e in asked_episodes([name], files, TASKS, 2, 5)[name]] == [{"number": 2}]
    with pytest.raises(UnknownTaskError, match=r"insert_flower has the episodes 0 to 0.*--seed"):
        asked_episodes([TRACK], files, TASKS, 2, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("select_friut", r"'select_friut' is no task or track of VLABench; closest: select_fruit"),
        ("track_2_cross_categroy", f"closest: {TRACK}"),
        (f"{TRACK}/select_tyo", rf"is no task of {TRACK}; closest: select_fruit"),
        ("track_2/select_fruit", f"closest: {TRACK}/select_fruit"),
        ("?", r"known: insert_flower, select_fruit, select_toy, track_2_cross_category"),
    ],
)
def test_an_unknown_name_is_told_with_the_closest(
    name: str, message: str, files: dict[str, Path]
) -> None:
    with pytest.raises(UnknownTaskError, match=message):
        asked_episodes([name], files, TASKS, 0, 1)


@pytest.mark.parametrize("names", [["select_toy", "select_toy"], [TRACK, f"{TRACK}/select_fruit"]])
def test_a_task_is_asked_for_once(names: list[str], files: dict[str, Path]) -> None:
    with pytest.raises(UnknownTaskError, match="names a task twice"):
        asked_episodes(names, files, TASKS, 0, 1)
