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
from e0_bench.speed.timing import Case, Machine, floor_ms, in_turn, make_policy, variations
from scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("speed")


@pytest.mark.parametrize("against", ["none", "lerobot-pi0", "lerobot-pi05"])
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
