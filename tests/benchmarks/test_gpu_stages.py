"""The stages for a GPU machine, as far as they can be tried without one and in seconds; all of them
are rehearsed by `make gpu-rehearse`."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scripts import BENCHMARKS

GPU = BENCHMARKS / "gpu"
SHADOWING = {"transformers", "tokenizers"}  # packed in other versions than the machine's


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(GPU))
    return importlib.import_module("stage")


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(GPU))
    return importlib.import_module("pack")


def names_of(lines: str) -> dict[str, str]:
    """Package -> version ("" if open), of a list of requirements."""
    named = [line for line in lines.splitlines() if line and not line.startswith("#")]
    return {line.partition("==")[0]: line.partition("==")[2] for line in named}


def test_packs_hold_what_the_machine_lacks_in_the_versions_that_are_tested(
    pack: ModuleType,
) -> None:
    machine = names_of((GPU / "machine.txt").read_text())
    constraints = names_of((pack.ROOT / "constraints.txt").read_text())
    packed = [name for part in pack.read_packs().values() for name in part.get("packages", ())]
    assert len(packed) == len(set(packed))
    assert set(packed) & machine.keys() == SHADOWING
    assert all(machine[name] != constraints[name] for name in SHADOWING)
    assert set(packed) - constraints.keys() == {"pyyaml-include"}


def test_every_pack_is_carried_and_no_call_carries_too_much(pack: ModuleType) -> None:
    assert {name for call in pack.TOGETHER for name in call} == pack.read_packs().keys()
    for call in pack.TOGETHER:
        assert 2**20 < pack.carried(call) < pack.LIMIT, pack.sizes()


def test_archives_hold_what_is_kept(pack: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("a/kept.txt", "a/assets/robot.txt", "a/assets/other.txt", "a/__pycache__/b.pyc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    pack.gather({"drop": ["a/assets/*"], "keep": ["a/assets/robot*"]}, folder)
    archives = [tmp_path / name for name in ("one.tar.xz", "two.tar.xz")]
    for archive in archives:
        pack.write_archive(folder, archive)
    with tarfile.open(archives[0]) as archive:
        assert archive.getnames() == ["a/assets/robot.txt", "a/kept.txt"]
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_packs_are_unpacked_once(pack: ModuleType, tmp_path: Path) -> None:
    shutil.copytree(GPU, tmp_path / "benchmarks" / "gpu")
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "module.py").write_text("value = 1\n")
    pack.write_archive(tmp_path / "given", tmp_path / ".gpu" / "packs" / "base.tar.xz")
    command = ["bash", str(tmp_path / "benchmarks" / "gpu" / "run.sh")]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
    for _ in range(2):
        subprocess.run(command, env=environment, check=True)
    unpacked = tmp_path / ".gpu" / "site" / "module.py"
    assert unpacked.read_text() == "value = 1\n"
    (tmp_path / ".gpu" / "packs" / "base.tar.xz").unlink()
    unpacked.write_text("value = 2\n")
    subprocess.run(command, env=environment, check=True)  # nothing is carried, nothing changes
    assert unpacked.read_text() == "value = 2\n"


def test_a_missing_pack_is_named_in_one_line(
    stage: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "sapien" else find(n))
    stage.require_packs(["base"])
    with pytest.raises(SystemExit) as end:
        stage.require_packs(["base", "sapien"])
    told = "missing here: .gpu/packs/sapien.tar.xz (sapien). Make it with `make gpu-pack` and "
    assert str(end.value) == f"{told}carry it."


def test_commands_end_in_time_with_all_that_they_started(stage: ModuleType, tmp_path: Path) -> None:
    child = f"import time; time.sleep(3); open({str(tmp_path / 'late')!r}, 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert stage.run_within([sys.executable, "-c", code], 1.0) is None
    assert stage.run_within([sys.executable, "-c", "raise SystemExit(3)"], 20.0) == 3
    assert stage.run_within([sys.executable, "-c", code], 0.0) is None
    assert not (tmp_path / "late").exists()


def test_results_of_an_earlier_call_are_taken_over(
    stage: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, out = tmp_path / "kept", tmp_path / "out"
    monkeypatch.setattr(stage, "KEPT", kept)
    ended: list[tuple[Any, ...]] = []
    monkeypatch.setattr(stage.atexit, "register", lambda *call: ended.append(call))
    for text in ("first", "first, second"):
        shutil.rmtree(out, ignore_errors=True)  # as $OUT is, before each call
        options = stage.stage_parser(None, 1).parse_args(["--out", str(out)])
        stage.begin(options, [], ["rows.json"])
        found = (out / "rows.json").read_text() if (out / "rows.json").exists() else None
        assert found == {"first": None, "first, second": "first"}[text]
        (out / "rows.json").write_text(text)
        function, *arguments = ended.pop()
        function(*arguments)
    assert (kept / "rows.json").read_text() == "first, second"


def test_demonstrations_of_finished_and_unfinished_tasks_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(GPU))
    demonstrations = importlib.import_module("demonstrations")
    parts = tmp_path / "dataset.partial" / "parts"
    record = {"collected": {"finished": {"seeds": [3, 5], "tries": 4, "success_rate": 0.5}}}
    for name in (
        "finished/meta/episodes/chunk-000/file-000.parquet",
        "begun.partial/dataset/meta/episodes/chunk-000/file-000.parquet",
        *("begun.partial/episodes/begun/7.npz", "begun.partial/episodes/begun/8.failed.json"),
    ):
        (parts / name).parent.mkdir(parents=True, exist_ok=True)
        (parts / name).touch()
    written = json.dumps(record)
    (parts / "finished" / "meta" / "collection.json").write_text(written)
    rows = demonstrations.episodes(tmp_path, "dataset")
    finished = {"part": "dataset", "task": "finished", "episodes": 2, "tries": 4}
    begun = {"part": "dataset", "task": "begun", "episodes": 1, "tries": 2}
    assert sorted(rows, key=str) == sorted([finished, begun], key=str)
    (tmp_path / "dataset" / "meta").mkdir(parents=True)
    (tmp_path / "dataset" / "meta" / "collection.json").write_text(written)
    assert demonstrations.episodes(tmp_path, "dataset") == [finished]
    assert demonstrations.episodes(tmp_path, "held_out") == []


def test_recipes_begin_with_e0_and_the_small_one_is_like_the_large_one(stage: ModuleType) -> None:
    large, small = (tomllib.loads(stage.recipe(b).read_text()) for b in (False, True))
    assert next(iter(large["policies"])) == next(iter(small["policies"])) == "e0_ordinal"
    assert len(large["dataset"]["tasks"]) == 6 and large["dataset"]["episodes"] == 300
    assert large["environment"]["hand_camera"] and large["benchmark"]["episodes"] >= 100
    assert small["environment"].items() >= large["environment"].items()
    assert small["policies"].items() <= large["policies"].items()


def test_the_first_stage_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GPU))
    monkeypatch.setenv("E0_STATE_ONLY", "1")  # a picture would take a while
    rehearse = importlib.import_module("rehearse")
    assert rehearse.run_stage("check", Path(sys.executable), tmp_path, 3) == 0
    results = json.loads((tmp_path / "check.json").read_text())
    outcomes = {row["test"]: row["outcome"] for row in results["tests"]}
    assert set(outcomes.values()) >= {"passed"} and "failed" not in outcomes.values()
    assert results["machine"]["rendering"] == "E0_STATE_ONLY=1 is set"
    assert results["packages"]["lerobot"].startswith("0.6")
    again = rehearse.run_stage("check", Path(sys.executable), tmp_path, 3)
    assert again == 0
    assert json.loads((tmp_path / "check.json").read_text())["tests"][0] == results["tests"][0]
