"""Ways to train large policies: averages, frozen parts, less memory, half precision, adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_dataset import build, collate, make_config, metadata
from torch import Tensor, nn

from e0.averaging import WeightAverage, with_weights
from e0.network.presets import PRESETS
from e0.network.transformer import GatedMLP
from e0.policy import OBJECTIVES
from lerobot_policy_e0 import E0Policy
from made_weights import write_tokenizer

LAYOUTS = ["tiny", "paligemma_debug", "paligemma_pi0_debug"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("tokenizers")
    return str(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def make(image_dataset: Path, tokenizer: str) -> Callable[..., tuple[E0Policy, dict[str, Any]]]:
    """A fresh policy of a preset, and a batch that went through its preprocessor."""

    def make(preset: str, **own: Any) -> tuple[E0Policy, dict[str, Any]]:
        settings = {"preset": preset, "text_tokenizer": tokenizer, "denoising_steps": 2} | own
        policy, preprocess, _ = build(image_dataset, **settings)
        return policy.train(), preprocess(collate(image_dataset, policy.config, [0, 15, 30]))

    return make


def train(policy: E0Policy, batch: dict[str, Any], steps: int = 2, lr: float = 1e-2) -> None:
    """As LeRobot's loop does it."""
    optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
    for group in optimizer.param_groups:
        group["lr"] = lr
    for _ in range(steps):
        policy.train()
        policy.forward(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        policy.update()


def loss_and_gradients(policy: E0Policy, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    policy.zero_grad()
    torch.manual_seed(1)
    loss = policy.forward(batch)[0]
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}


# Averages


def test_the_average_is_the_weighted_sum_of_all_weights() -> None:
    module = nn.Linear(2, 1, bias=False)
    average = WeightAverage(module, 0.9)
    expected = module.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            module.weight.copy_(torch.randn(1, 2))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach()
        average.update(module)
    torch.testing.assert_close(average.averages()["weight"], expected)
    assert not average.averages()["weight"].requires_grad


def test_a_twin_shares_everything_but_the_given_weights() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    other = torch.zeros(2, 2)
    twin = with_weights(module, {"1.weight": other})
    assert twin[0].weight is module[0].weight
    assert twin[1].bias is module[1].bias
    assert twin[1].weight.data_ptr() == other.data_ptr()
    other += 1
    assert torch.equal(twin[1].weight, torch.ones(2, 2))
    assert not torch.equal(module[1].weight, twin[1].weight)


def test_the_average_acts_is_saved_and_goes_on(make: Any, tmp_path: Path) -> None:
    policy, batch = make("tiny", ema_decay=0.5)
    train(policy, batch, steps=3)
    assert policy.average is not None
    name = "action_tokens.output.weight"
    raw = policy.model.network.get_parameter(name)
    average = policy.average.averages()[name]
    assert not torch.equal(raw, average)
    noise = torch.randn(3, policy.config.horizon, 7, 1)
    chunk = policy.predict_action_chunk(batch, noise=noise)
    observation = policy.observation(batch)
    assert not torch.equal(policy.model.sample(observation, noise=noise).actions, chunk)
    torch.testing.assert_close(policy.acting().sample(observation, noise=noise).actions, chunk)
    policy.save_pretrained(tmp_path)
    again = E0Policy.from_pretrained(tmp_path)
    torch.testing.assert_close(again.predict_action_chunk(batch, noise=noise), chunk)
    assert again.state_dict().keys() == policy.state_dict().keys()
    for key, tensor in policy.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    # Trained on alike, both end alike, the average too.
    for one in (policy, again):
        torch.manual_seed(3)
        train(one, batch, steps=1)
    torch.testing.assert_close(again.state_dict()[f"average.{name.replace('.', '/')}"], average)


def test_averages_of_sharded_weights_are_refused() -> None:
    average = WeightAverage(nn.Linear(4, 4), 0.9)
    with pytest.raises(ValueError, match="does not work with sharded training; set ema_decay=0"):
        average.update(nn.Linear(4, 2))


# Freezing


@pytest.mark.parametrize("preset", LAYOUTS)
@pytest.mark.parametrize("part", ["vision", "language"])
def test_frozen_parts_stay_as_they_are(make: Any, preset: str, part: str) -> None:
    policy, batch = make(preset, **{f"freeze_{part}": True}, ema_decay=0.9)
    frozen = ("tower.",) if part == "vision" else ("language.", "prefix_")
    before = {name: p.detach().clone() for name, p in policy.model.network.named_parameters()}
    train(policy, batch)
    changed = {
        name
        for name, parameter in policy.model.network.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    kept = {name for name in before if name.startswith(frozen)}
    assert kept and not kept & changed
    assert changed == set(before) - kept
    assert policy.average is not None
    assert not {n for n in policy.average.names if n.startswith(frozen)}
    optimized = {id(p) for group in policy.get_optim_params() for p in group["params"]}
    parameters = dict(policy.model.network.named_parameters())
    assert not optimized & {id(parameters[name]) for name in kept}


def test_frozen_encoding_makes_no_graph(make: Any) -> None:
    policy, batch = make("paligemma_debug", freeze_vision=True, freeze_language=True)
    prefix = policy.model.network.encode_prefix(policy.observation(batch))
    assert not any(tensor.requires_grad for layer in prefix.layers for tensor in layer)


# Memory and precision


@pytest.mark.parametrize("preset", LAYOUTS)
def test_checkpointing_computes_twice_and_changes_nothing(
    make: Any, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, batch = make(preset)
    calls = 0
    original = GatedMLP.forward

    def count(self: GatedMLP, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return original(self, x)

    monkeypatch.setattr(GatedMLP, "forward", count)
    expected, gradients = loss_and_gradients(policy, batch)
    once = calls
    policy.model.network.checkpointing = True
    loss, again = loss_and_gradients(policy, batch)
    assert calls - once == 2 * once
    assert torch.equal(loss, expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(again[name], gradient)


def test_the_setting_turns_checkpointing_on(make: Any) -> None:
    assert make("tiny", gradient_checkpointing=True)[0].model.network.checkpointing


@pytest.mark.parametrize("preset", LAYOUTS)
def test_half_precision_keeps_float32_where_it_matters(make: Any, preset: str) -> None:
    policy, batch = make(preset)
    expected, _ = loss_and_gradients(policy, batch)
    large: set[torch.dtype] = set()
    block = policy.model.network.suffix_blocks[0]
    handle = block.mlp.gate_up.register_forward_hook(lambda m, i, output: large.add(output.dtype))
    torch.manual_seed(1)
    policy.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = policy.forward(batch)[0]
    loss.backward()
    handle.remove()
    assert large == {torch.bfloat16}, "the large products are in half precision"
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=0.03)
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in policy.parameters())
    optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
    optimizer.step()
    state = next(iter(optimizer.state.values()))
    assert state["exp_avg"].dtype is torch.float32


def test_the_optimizer_is_fused_and_keeps_its_groups(make: Any) -> None:
    policy, _ = make("tiny")
    optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["fused"] is True
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-2, 0.0]


# Gradients and noise draws


@pytest.mark.parametrize("preset", LAYOUTS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_trained_parameter_gets_a_gradient(make: Any, preset: str, objective: str) -> None:
    """Data-parallel training waits for all of them."""
    for grain in ("step", "dimension"):
        policy, batch = make(preset, objective=objective, token_grain=grain)
        policy.forward(batch)[0].backward()
        missing = [n for n, p in policy.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []


@pytest.mark.parametrize("preset", LAYOUTS)
@pytest.mark.parametrize("grain", ["step", "dimension"])
def test_draws_side_by_side_are_draws_one_by_one(make: Any, preset: str, grain: str) -> None:
    policy, batch = make(preset, token_grain=grain)
    network = policy.model.network
    shape = (3, policy.config.horizon, 7, 1)
    noisy = torch.randn(2, *shape)
    time = torch.rand(2, 3)
    with torch.no_grad():
        prefix = network.encode_prefix(policy.observation(batch))
        together = network.denoise(
            prefix, noisy.transpose(0, 1).flatten(0, 1), time.T.flatten()
        ).unflatten(0, (3, 2))
        for draw in range(2):
            alone = network.denoise(prefix, noisy[draw], time[draw])
            torch.testing.assert_close(together[:, draw], alone, rtol=1e-4, atol=1e-5)


# Adapters


@pytest.mark.parametrize("preset", LAYOUTS)
def test_adapters_through_lerobots_training(
    preset: str,
    make: Any,
    image_dataset: Path,
    tokenizer: str,
    tmp_path: Path,
    run_program: Any,
) -> None:
    pytest.importorskip("peft")
    from lerobot.policies import make_policy
    from lerobot.scripts.lerobot_train import main

    base, batch = make(preset)
    base.save_pretrained(tmp_path / "base")
    make_preprocessors(base, image_dataset, tmp_path / "base")
    before = load_file(tmp_path / "base" / "model.safetensors")
    run_program(
        main,
        f"--policy.path={tmp_path / 'base'}",
        "--policy.push_to_hub=false",
        "--peft.method_type=LORA",
        "--peft.r=4",
        "--policy.optimizer_lr=1e-3",
        f"--dataset.repo_id=local/{image_dataset.name}",
        f"--dataset.root={image_dataset}",
        f"--output_dir={tmp_path / 'run'}",
        *(
            "--steps=2",
            "--save_freq=2",
            "--batch_size=4",
            "--num_workers=0",
            "--wandb.enable=false",
        ),
    )
    directory = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model"
    saved = load_file(directory / "adapter_model.safetensors")
    assert all(
        "lora_" in name or "action_tokens" in name or "time" in name or "vector_proj" in name
        for name in saved
    )
    assert any("lora_B" in name and tensor.any() for name, tensor in saved.items())
    assert any("prefix_blocks.0.attention.query.lora_A" in name for name in saved)
    assert any("suffix_blocks.0.mlp.down.lora_A" in name for name in saved)
    config = make_config_of(directory)
    config.pretrained_path = directory
    adapted = make_policy(config, ds_meta=metadata(image_dataset))
    noise = torch.randn(3, base.config.horizon, 7, 1)
    with torch.no_grad():
        chunk = adapted.predict_action_chunk(batch, noise=noise)
        inner = adapted.get_base_model()
        plain = inner.model.sample(inner.observation(batch), noise=noise).actions
        torch.testing.assert_close(chunk, plain)
        assert not torch.equal(chunk, base.predict_action_chunk(batch, noise=noise))
    after = load_file(tmp_path / "base" / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def make_preprocessors(policy: E0Policy, dataset: Path, directory: Path) -> None:
    from lerobot.policies import make_pre_post_processors

    for part in make_pre_post_processors(policy.config, dataset_stats=metadata(dataset).stats):
        part.save_pretrained(directory)


def make_config_of(directory: Path) -> Any:
    from lerobot.configs import PreTrainedConfig

    return PreTrainedConfig.from_pretrained(directory)


def test_adapters_need_a_saved_base(make: Any) -> None:
    pytest.importorskip("peft")
    policy, _ = make("tiny")
    with pytest.raises(ValueError, match="must be saved first"):
        policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 4})
    policy.config.pretrained_path, policy.config.ema_decay = Path("somewhere"), 0.9
    with pytest.raises(ValueError, match="ema_decay averages no adapters"):
        policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 4})


def test_wrapped_layers_are_not_taken_for_plain_ones(make: Any) -> None:
    pytest.importorskip("peft")
    from e0.sampling.sampler import unsupported

    policy, _ = make("tiny")
    assert unsupported(policy.model) is None
    policy.config.pretrained_path = Path("somewhere")
    policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 4})
    reason = unsupported(policy.model)
    assert reason is not None and "adapters" in reason


# Sharded training


def test_blocks_are_the_units_of_sharded_training(make: Any) -> None:
    from accelerate.utils.dataclasses import FullyShardedDataParallelPlugin

    from e0.network.siglip import VisionBlock
    from e0.network.transformer import Block

    policy, _ = make("paligemma_debug")
    plugin = FullyShardedDataParallelPlugin(auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(policy)
    assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"] == {Block, VisionBlock}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"ema_decay": 1.0}, r"ema_decay must lie within \[0, 1\)"),
        ({"ema_decay": -0.1}, r"ema_decay must lie within \[0, 1\)"),
        ({"optimizer_lr": 0.0}, "optimizer_lr must be positive"),
    ],
)
def test_impossible_settings_are_refused(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(**setting)


def test_settings_survive_saving(make: Any, tmp_path: Path) -> None:
    policy, _ = make("tiny", freeze_vision=True, gradient_checkpointing=True, ema_decay=0.9)
    policy.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert (told["freeze_vision"], told["gradient_checkpointing"]) == (True, True)
    assert E0Policy.from_pretrained(tmp_path).average is not None
    assert set(PRESETS) >= set(LAYOUTS)
