"""The speed benchmark runs through at a tiny size, with and without LeRobot's models beside it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from e0.network.presets import PRESETS
from e0_bench.speed.lerobot_peers import sizes_of
from e0_bench.speed.timing import (
    Case,
    Machine,
    floor_ms,
    in_turn,
    make_policy,
    observe,
    pictures,
    variations,
)
from scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("speed")


@pytest.mark.parametrize(
    "against",
    [
        "none",
        pytest.param("lerobot-pi0", marks=pytest.mark.slow),
        pytest.param("lerobot-pi05", marks=pytest.mark.slow),
    ],
)
def test_dry_run(
    script: ModuleType, against: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if against != "none":
        pytest.importorskip("transformers")
    out = tmp_path / "speed.json"
    script.main(["--preset", "tiny", "--against", against, "--dry-run", "--out", str(out)])
    results: dict[str, Any] = json.loads(out.read_text())
    rows = results["speed"]
    assert results["machine"]["dry_run"] is True
    assert "DRY RUN, no measurement of speed" in capsys.readouterr().out
    chunks = [row for row in rows if row["what"] == "chunk"]
    assert {row["policy"] for row in chunks} == {"e0 plain", "e0 fast"} | ({against} - {"none"})
    assert {row["steps"] for row in chunks} == {1, 4, 10}
    assert {row["batch"] for row in chunks} == {1, 8}
    assert {row["vocabulary"] for row in chunks} == {256, 2048}
    assert {row["grain"] for row in chunks} == {"step", "dimension"}
    assert {row["what"] for row in rows} - {"chunk"} == {
        "vision",
        "prefix",
        "step, plain",
        "step, fast",
        "read-out",
        "training step",
    }
    assert all(0 < row["median_ms"] <= row["p95_ms"] and row["runs"] == 3 for row in rows)
    training = [row for row in rows if row["what"] == "training step"]
    assert {row["policy"] for row in training} == {"e0"} | ({against} - {"none"})
    assert len(results["done"]) == 8 + (against != "none") and results["failed"] == {}
    del results["done"][-1]  # a training
    out.write_text(json.dumps(results))
    flags = ["--preset", "tiny", "--against", against, "--dry-run", "--out", str(out), "--resume"]
    with pytest.raises(SystemExit, match=str(script.OUT_OF_TIME)):
        script.main([*flags, "--minutes", "0"])
    assert json.loads(out.read_text()) == results, "nothing new is begun when the time is up"
    with pytest.raises(SystemExit, match="measured with another cameras"):
        script.main([*flags, "--cameras", "3"])


def test_an_error_ends_what_it_is_in_and_no_more(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[dict[str, Any]]:
        raise RuntimeError("out of memory")

    results: dict[str, Any] = {"speed": [], "done": [], "failed": {}}
    script._measure("first", broken, results)
    script._measure("second", lambda: [{"what": "chunk"}], results)
    assert results["failed"] == {"first": "RuntimeError: out of memory"}
    assert results["speed"] == [{"what": "chunk"}] and results["done"] == ["second"]


def test_prompts_tell_the_state_where_the_policys_do() -> None:
    tasks, cpu = Case("paligemma_debug", 1, 8), torch.device("cpu")
    told = make_policy(tasks, cpu)
    seen = observe(told, tasks, pictures(tasks, cpu), 4)
    lengths = {row.instruction.shape[1] for row in seen if row.instruction is not None}
    assert len(lengths) > 1 and min(lengths) > 40, "the state's digits are missing"
    assert all(row.vectors == {} for row in seen)
    given = Case("paligemma_pi0_debug", 1, 8)
    (seen_by_pi0,) = observe(make_policy(given, cpu), given, pictures(given, cpu))
    assert seen_by_pi0.instruction is not None and seen_by_pi0.instruction.shape[1] < 20
    assert seen_by_pi0.vectors["observation.state"].shape == (1, 8)


def test_a_peer_of_another_layout_is_refused(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        script.main(
            ["--preset", "tiny", "--against", "lerobot-pi0", "--out", str(tmp_path / "r.json")]
        )


def test_variations_differ_in_one_thing_and_come_once() -> None:
    base = Case("tiny", 2, 8, steps=4)
    cases = variations(base)
    assert cases[0] == base and len(cases) == len(set(cases)) == 6
    for case in cases[1:]:
        different = [name for name in vars(base) if getattr(base, name) != getattr(case, name)]
        assert len(different) == 1


def test_methods_are_taken_in_turn_after_warming_up() -> None:
    order: list[str] = []
    methods = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    times = in_turn(methods, Machine(torch.device("cpu"), torch.float32, runs=3, warm_up=1))
    assert order == ["a", "b"] * 4
    assert times["a"]["runs"] == 3


def test_the_floor_grows_with_what_must_be_read_and_computed() -> None:
    machine = Machine(torch.device("cpu"), torch.float32, runs=1)
    policy = make_policy(Case("tiny", 1, 8), machine.device)

    def floor(**changes: Any) -> float:
        return floor_ms(policy, Case("tiny", 1, 8, **changes), machine)

    one, ten = floor(steps=1), floor(steps=10)
    assert 0 < one < ten
    # The steps' share: 9 more readings of the action tokens' weights at the least.
    suffix = sum(p.numel() for p in policy.network.suffix_blocks.parameters())
    from e0_bench.speed.timing import machine_rates

    assert ten - one >= 9 * 1000 * 4 * suffix / machine_rates(machine.device, machine.dtype)[0]
    assert floor(batch=8) > floor(batch=1)


def test_the_sizes_of_lerobots_models_are_put_back() -> None:
    pytest.importorskip("transformers")
    from lerobot.policies.pi0 import modeling_pi0

    before = modeling_pi0.get_gemma_config("gemma_2b").width
    with pytest.raises(RuntimeError), sizes_of("pi0", PRESETS["paligemma_pi0_debug"]) as module:
        assert module.get_gemma_config("gemma_2b").width == 64
        raise RuntimeError
    assert modeling_pi0.get_gemma_config("gemma_2b").width == before
