"""Policies that only act, at what they take of memory; and what a GPU's graphs must follow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from acting_policies import SMALL, make_policy, noise, observe, plain, to_device

from e0.network.presets import PRESETS
from e0.sampling.cuda_graph import GraphedSampler
from lerobot_policy_e0 import E0Policy

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
on_each_device = pytest.mark.parametrize("device", ["cpu", GPU])


@pytest.fixture(autouse=True)
def small_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "test", SMALL)


def chunk(policy: E0Policy) -> torch.Tensor:
    device = str(policy.device)
    return policy.predict(to_device(observe(), device), noise=noise(device=device)).actions


def require_graphs(policy: E0Policy) -> None:
    if policy.device.type == "cuda":
        sampler = policy._sampler(None)
        assert isinstance(sampler, GraphedSampler) and sampler.reason is None


@on_each_device
def test_an_average_is_acted_by_and_followed(device: str) -> None:
    policy = make_policy(objective="flow", ema_decay=0.5, device=device).to(device)
    for _ in range(3):
        torch.testing.assert_close(chunk(policy), plain(policy))
        require_graphs(policy)
        with torch.no_grad():
            for parameter in policy.model.network.parameters():
                parameter.add_(0.1)
        policy.update()


@on_each_device
def test_adapters_are_acted_with(device: str) -> None:
    pytest.importorskip("peft")
    policy = make_policy(objective="flow", device=device)
    policy.config.pretrained_path = Path("somewhere")
    adapted = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 4}).to(device)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name:
                parameter.add_(0.1)
    adapted.eval()
    torch.testing.assert_close(chunk(policy), plain(policy))
    sampler = policy._sampler(None)
    assert sampler.reason is not None and "merge them" in sampler.reason


@on_each_device
@pytest.mark.parametrize("own", [{}, {"ema_decay": 0.5}])
def test_half_the_memory_acts_as_well(own: dict[str, float], device: str) -> None:
    policy = make_policy(objective="flow", dtype="bfloat16", **own)
    if policy.average is not None:
        policy.update()
    expected = plain(policy)
    whole = sum(tensor.nbytes for tensor in policy.state_dict().values())
    policy.only_act()
    policy.to(device)
    kept = sum(tensor.nbytes for tensor in policy.state_dict().values())
    assert kept < (0.6 if not own else 0.3) * whole
    error = (chunk(policy).cpu() - expected).abs().max()
    assert 0 < error < 0.05 * expected.abs().max()
    sampler = policy._sampler(None)
    fast = sampler.sampler if isinstance(sampler, GraphedSampler) else sampler
    assert fast.network is policy.model.network, "no copy in another dtype"
    require_graphs(policy)


@pytest.mark.parametrize("own", [{}, {"ema_decay": 0.5}])
def test_in_float32_the_chunks_stay_the_same(own: dict[str, float]) -> None:
    policy = make_policy(objective="flow", **own)
    expected = chunk(policy)
    policy.only_act()
    torch.testing.assert_close(chunk(policy), expected, rtol=0, atol=0)


def test_it_is_neither_trained_nor_saved(tmp_path: Path) -> None:
    policy = make_policy(dtype="bfloat16")
    policy.only_act()
    with pytest.raises(RuntimeError, match="cannot be trained"):
        policy.train()
    with pytest.raises(RuntimeError, match="cannot be saved"):
        policy.save_pretrained(tmp_path)
    policy.eval()


@pytest.mark.gpu
def test_a_large_policy_is_never_on_the_device_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading, tables, graphs and a chunk within 1.3 times the weights in bfloat16."""
    monkeypatch.setitem(PRESETS, "test", PRESETS["small"])
    policy = make_policy(dtype="bfloat16", image_size=(32, 32))
    policy.only_act()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    policy.to("cuda")
    weights = torch.cuda.memory_allocated() - before
    chunk(policy)
    require_graphs(policy)
    assert torch.cuda.max_memory_allocated() - before < 1.3 * weights
