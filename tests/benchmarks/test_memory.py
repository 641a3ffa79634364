"""The memory script counts what torch counts."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from scripts import load_script


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("memory")


def test_states_are_those_of_an_optimizer(script: ModuleType) -> None:
    network = script.make_network("paligemma_debug", 2, 50)
    trained, size = script.state_bytes(network, script.Mode("", freeze_vision=True))
    expected = 0
    for parameter in network.parameters():
        copies = 4 if parameter.requires_grad else 1  # weight, gradient, two moments
        expected += copies * parameter.numel() * parameter.element_size()
    assert size == expected
    assert trained == sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_adapters_are_counted_as_peft_counts_them(script: ModuleType) -> None:
    peft = pytest.importorskip("peft")
    network = script.make_network("paligemma_debug", 2, 50)
    whole = sum(
        p.numel() for part in (network.action_tokens, network.time) for p in part.parameters()
    )
    trained, _ = script.state_bytes(network, script.Mode("", lora_rank=4))
    inner = "query|projection|output|gate_up|down"
    pattern = rf".*(prefix|suffix)_blocks\.\d+\.(attention|mlp)\..*({inner})"
    config = peft.LoraConfig(r=4, target_modules=pattern)
    adapted = peft.get_peft_model(network, config)
    lora = sum(p.numel() for n, p in adapted.named_parameters() if "lora_" in n)
    assert trained == lora + whole


def test_activations_shrink_with_checkpointing_and_freezing(script: ModuleType) -> None:
    network = script.make_network("paligemma", 2, 50)
    sizes = {mode.name: script.activation_bytes(network, mode, 32, 2) for mode in script.MODES}
    assert sizes["everything"] > 5 * sizes["everything, checkpointing"]
    assert sizes["vision and language frozen"] < sizes["vision frozen, checkpointing"]


def test_the_table_is_printed(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--preset", "paligemma_debug"])
    printed = capsys.readouterr().out
    assert "Derived, not measured" in printed
    assert printed.count("\n| ") == len(script.MODES) + 1
    assert torch.is_grad_enabled()
