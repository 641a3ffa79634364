"""Policies that see with a pretrained model of the library transformers; the models are made here,
small and random, and loaded as those of others are."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies import make_policy
from safetensors.torch import load_file, save_file
from small_dataset import ACTION_DIM, CAMERA, HORIZON, build, make_config, metadata
from torch import Tensor, nn

from e0.network.vision import PLACE_WIDTH, coordinates, place_features
from lerobot_policy_e0 import E0Policy
from lerobot_policy_e0.modeling_e0 import CheckpointError
from lerobot_policy_e0.vision import VisionTower
from lerobot_policy_e0.vision_model import NAMED, VisionError, VisionModel, find_vision_model

transformers: Any = pytest.importorskip("transformers")

STATE = "observation.state"
KINDS = ("resnet", "dinov2", "siglip", "siglip with text")
SIZES = {"resnet": (224, 224), "dinov2": (28, 28), "siglip": (32, 32), "siglip with text": (32, 32)}
ATTENTION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def made(kind: str) -> Any:
    """A random model as one would find it on the hub, with parts that a policy does not need."""
    siglip = {**ATTENTION, "intermediate_size": 32, "image_size": 32, "patch_size": 16}
    if kind == "resnet":
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        )
        model = transformers.ResNetForImageClassification(config)
        for module in model.modules():  # as if it had been trained
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        return model
    if kind == "dinov2":
        config = transformers.Dinov2Config(**ATTENTION, mlp_ratio=2, image_size=28, patch_size=14)
        return transformers.Dinov2Model(config)
    if kind == "siglip":
        return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**siglip))
    text = {**ATTENTION, "intermediate_size": 32, "vocab_size": 50}
    return transformers.SiglipModel(
        transformers.SiglipConfig(vision_config=siglip, text_config=text)
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By kind, the directory with a model."""
    directory = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        torch.manual_seed(0)
        made(kind).save_pretrained(directory / kind)
    return {kind: directory / kind for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def policy_of(vision: Path | str | None, camera: bool = True, **changes: Any) -> E0Policy:
    """A new policy with actions in [-1, 1]. Without a dataset it is made sooner."""
    torch.manual_seed(0)
    inputs = {STATE: PolicyFeature(FeatureType.STATE, (4,))}
    if camera:
        inputs[CAMERA] = PolicyFeature(FeatureType.VISUAL, (3, 64, 64))
    config = make_config(
        vision=None if vision is None else str(vision),
        input_features=inputs,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))},
        **{"denoising_steps": 2, "noise_draws": 1} | changes,
    )
    bounds = {"min": -1.0, "max": 1.0, "mean": 0.0, "std": 0.5}
    actions = {name: torch.full((ACTION_DIM,), value) for name, value in bounds.items()}
    return E0Policy(config, dataset_stats={"action": actions})


def batch() -> dict[str, Any]:
    random = torch.Generator().manual_seed(1)
    return {
        CAMERA: torch.rand(2, 3, 64, 64, generator=random),
        STATE: torch.randn(2, 4, generator=random),
        "action": torch.rand(2, HORIZON, ACTION_DIM, generator=random),
        "task": ["push the cube", "pick up the cube"],
    }


def tower_of(policy: E0Policy) -> VisionTower:
    tower = policy.model.network.tower
    assert isinstance(tower, VisionTower)
    return tower


def noise() -> Tensor:
    return torch.randn(2, HORIZON, ACTION_DIM, 1, generator=torch.Generator().manual_seed(0))


# What is seen


def test_a_tower_gives_what_the_library_gives(kind: str, models: dict[str, Path]) -> None:
    model = find_vision_model(str(models[kind]), "pretrained")
    tower = VisionTower(model, 128, models[kind]).eval()
    images = torch.rand(2, 3, *(28, 42) if kind == "dinov2" else (32, 32))
    mean, std = (0.5, 0.5) if "siglip" in kind else (model.mean, model.std)
    mean, std = (torch.tensor(value).expand(3).view(3, 1, 1) for value in (mean, std))
    theirs = made_again(models[kind])(pixel_values=(images - mean) / std).last_hidden_state
    if kind == "resnet":
        assert theirs.shape == (2, 16, 4, 4)
        places = place_features(coordinates(4, 4, images.device)).expand(2, 16, PLACE_WIDTH)
        theirs = torch.cat((theirs.flatten(2).transpose(1, 2), places), -1)
    tokens = {"resnet": 16, "dinov2": 1 + 2 * 3}.get(kind, 4)
    assert tower(images).shape == (2, tokens, 128)
    torch.testing.assert_close(tower(images), tower.projection(theirs))


def made_again(directory: Path) -> Any:
    """The model that reads pictures, by the library's own class for it."""
    config = transformers.AutoConfig.from_pretrained(directory)
    if config.model_type.startswith("siglip"):
        return transformers.SiglipVisionModel.from_pretrained(directory).eval()
    return transformers.AutoModel.from_pretrained(directory).eval()


def test_pixels_are_normalized_as_the_model_was_trained(
    models: dict[str, Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(models["dinov2"], tmp_path / "model")
    assert find_vision_model(str(directory), "pretrained").mean == (0.485, 0.456, 0.406)
    file = directory / "preprocessor_config.json"
    file.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}))
    model = find_vision_model(str(directory), "pretrained")
    assert (model.mean, model.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    seen = {}
    tower = VisionTower(model, 128, directory)
    tower.pretrained.register_forward_pre_hook(
        lambda module, args, options: seen.update(options), with_kwargs=True
    )
    tower(torch.full((1, 3, 28, 28), 0.6))
    torch.testing.assert_close(
        seen["pixel_values"][0, :, 0, 0], torch.tensor([1.0, 0.4 / 0.6, 0.3 / 0.7])
    )
    file.write_text('{"do_normalize": false}')
    assert find_vision_model(str(directory), "pretrained").std == (1.0, 1.0, 1.0)
    file.write_text("{")
    with pytest.raises(VisionError, match=r"preprocessor_config\.json cannot be read"):
        find_vision_model(str(directory), "pretrained")


@pytest.mark.parametrize(
    ("name", "asked", "pictures", "size"),
    [
        ("resnet18", None, [(3, 480, 640)] * 2, (168, 224)),
        ("resnet18", None, [(3, 480, 640), (3, 224, 224)], (224, 224)),
        ("resnet18", (90, 120), [(3, 480, 640)], (90, 120)),
        ("dinov2_small", None, [(3, 720, 1280)], (126, 224)),
        ("dinov2_small", None, [], (224, 224)),
        ("dinov2_small", (140, 280), [(3, 480, 640)], (140, 280)),
        ("dinov2_small", (128, 128), [(3, 480, 640)], "multiples of that, got (128, 128)"),
        ("siglip_base", None, [(3, 480, 640)], (224, 224)),
        ("siglip_base", (128, 128), [(3, 480, 640)], "needs image_size=[224,224], got (128, 128)"),
    ],
)
def test_pictures_have_a_size_that_the_model_takes(
    name: str, asked: Any, pictures: Any, size: Any
) -> None:
    model = VisionModel.from_json(find_vision_model(name, "random").to_json())
    if isinstance(size, str):
        with pytest.raises(VisionError) as error:
            model.picture_size(asked, pictures)
        assert size in str(error.value)
    else:
        assert model.picture_size(asked, pictures) == size


# Training


def test_a_new_policy_sees_with_the_pretrained_weights_and_trains_all(
    kind: str, models: dict[str, Path]
) -> None:
    policy = policy_of(models[kind])
    assert policy.config.image_size == SIZES[kind]
    own, theirs = tower_of(policy).pretrained.state_dict(), made(kind).state_dict()
    saved = load_file(models[kind] / "model.safetensors")
    assert len(theirs) == len(saved)
    for name, tensor in own.items():
        prefixed = [f"{prefix}{name}" for prefix in ("", "resnet.", "vision_model.")]
        assert torch.equal(tensor, next(saved[n] for n in prefixed if n in saved)), name
    before = {n: b.clone() for n, b in policy.named_buffers()}
    policy.train()
    policy.forward(batch())[0].backward()
    without = [name for name, p in policy.named_parameters() if p.grad is None]
    assert without == [], "data-parallel training waits for each"
    assert all(torch.equal(b, before[n]) for n, b in policy.named_buffers()), "batch norms stay"


def test_frozen_models_have_a_trained_projection(models: dict[str, Path]) -> None:
    policy = policy_of(models["resnet"], freeze_vision=True)
    policy.train()
    policy.forward(batch())[0].backward()
    tower = tower_of(policy)
    assert not any(p.requires_grad for p in tower.pretrained.parameters())
    assert all(p.grad is not None for p in tower.projection.parameters())
    assert len(policy.get_optim_params()) == 2


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({}, 2.5e-5),
        ({"optimizer_lr": 1e-5}, 1e-5),
        ({"optimizer_lr_vision": 1e-4}, 1e-4),
        ({"vision_weights": "random"}, None),
    ],
)
def test_a_pretrained_model_learns_slowly(
    changes: dict[str, Any], rate: float | None, models: dict[str, Path]
) -> None:
    policy = policy_of(models["resnet"], **changes)
    groups = policy.get_optim_params()
    every = [id(p) for group in groups for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in policy.parameters())
    pretrained = {id(p) for p in tower_of(policy).pretrained.parameters()}
    slow = [id(p) for group in groups if "lr" in group for p in group["params"]]
    assert set(slow) == (set() if rate is None else pretrained)
    assert {group["lr"] for group in groups if "lr" in group} == ({rate} - {None})
    optimizer = policy.config.get_optimizer_preset().build(groups)
    policy.config.get_scheduler_preset().build(optimizer, 100)
    rates = [group["lr"] for group in optimizer.param_groups]
    asked = [group.get("lr", policy.config.optimizer_lr) for group in groups]
    assert rates == pytest.approx([r / asked[0] * rates[0] for r in asked])


def test_checkpointing_keeps_the_gradient(models: dict[str, Path]) -> None:
    gradients = []
    for checkpointing in (False, True):
        policy = policy_of(models["dinov2"], gradient_checkpointing=checkpointing)
        policy.train()
        torch.manual_seed(1)
        policy.forward(batch())[0].backward()
        gradients.append({name: p.grad for name, p in policy.named_parameters()})
    torch.testing.assert_close(*gradients)


def test_the_average_sees_with_its_own_weights(models: dict[str, Path]) -> None:
    policy = policy_of(models["dinov2"], ema_decay=0.5)
    before = policy.predict(batch(), noise=noise()).entropy
    policy.forward(batch())[0].backward()
    torch.optim.SGD(policy.parameters(), lr=1.0).step()
    policy.update()
    weight = "pretrained.layernorm.weight"
    averaged = policy.acting().network.tower
    assert averaged is not None
    assert not torch.equal(averaged.get_parameter(weight), tower_of(policy).get_parameter(weight))
    assert not torch.equal(policy.predict(batch(), noise=noise()).entropy, before)


# Acting


def test_the_fast_path_gives_the_same_chunks(kind: str, models: dict[str, Path]) -> None:
    policy = policy_of(models[kind])
    for parameter in policy.model.network.parameters():  # a new one's last layer is zero
        parameter.data += 0.02 * torch.randn_like(parameter)
    fast = policy.predict(batch(), noise=noise())
    policy.config.fast_sampling = False
    plain = policy.predict(batch(), noise=noise())
    torch.testing.assert_close(fast.actions, plain.actions)
    torch.testing.assert_close(fast.entropy, plain.entropy, rtol=1e-4, atol=1e-4)
    dark = policy.predict(batch() | {CAMERA: torch.zeros(2, 3, 64, 64)}, noise=noise())
    assert not torch.allclose(dark.entropy, plain.entropy, atol=1e-4), "it does not look"


def test_half_precision_sees(kind: str, models: dict[str, Path]) -> None:
    policy = policy_of(models[kind], dtype="bfloat16")
    assert policy.predict(batch(), noise=noise()).actions.isfinite().all()
    assert next(policy.parameters()).dtype == torch.float32


# Checkpoints


def test_a_checkpoint_needs_nothing_else(
    kind: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(models[kind], tmp_path / "source")
    policy = policy_of(source)
    for parameter in policy.model.network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    chunk = policy.predict(batch(), noise=noise())
    checkpoint = tmp_path / "checkpoint"
    policy.save_pretrained(checkpoint)
    shutil.rmtree(source)

    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("a checkpoint must not need a network")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr("lerobot_policy_e0.vision.vision_directory", no_network)
    again = E0Policy.from_pretrained(checkpoint)
    torch.testing.assert_close(again.predict(batch(), noise=noise()), chunk, rtol=0, atol=0)


def test_a_policy_for_a_dataset_is_continued_without_the_model(
    models: dict[str, Path],
    image_dataset: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = shutil.copytree(models["dinov2"], tmp_path / "source")
    with caplog.at_level(logging.INFO):
        policy = build(image_dataset, vision=str(source))[0]
    assert f"seen by {source} (pretrained weights, learning rate 2.5e-05)" in caplog.text
    policy.save_pretrained(tmp_path / "checkpoint")
    shutil.rmtree(source)
    config = PreTrainedConfig.from_pretrained(tmp_path / "checkpoint")
    config.pretrained_path = tmp_path / "checkpoint"
    continued = make_policy(config, ds_meta=metadata(image_dataset))
    torch.testing.assert_close(continued.state_dict(), policy.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_keeps_its_eye(models: dict[str, Path], tmp_path: Path) -> None:
    seeing, plain = tmp_path / "seeing", tmp_path / "plain"
    policy_of(models["resnet"]).save_pretrained(seeing)
    policy_of(None).save_pretrained(plain)
    for directory, changes, message in [
        (seeing, {"vision": "resnet18"}, "with vision=/.*which cannot become resnet18"),
        (seeing, {"vision_weights": "random"}, "which cannot become random: leave out"),
        (plain, {"vision": "resnet18"}, "needs a new policy: leave out --policy.path"),
    ]:
        config = PreTrainedConfig.from_pretrained(directory)
        config.pretrained_path = directory
        for name, value in changes.items():
            setattr(config, name, value)
        with pytest.raises(VisionError, match=message):
            E0Policy.from_pretrained(directory, config=config)
    tensors = load_file(seeing / "model.safetensors")
    name = next(name for name in tensors if "tower.pretrained" in name)
    del tensors[name]
    save_file(tensors, seeing / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"missing {name}"):
        E0Policy.from_pretrained(seeing)


def test_a_prefix_comes_from_a_policy_with_the_same_eye(
    models: dict[str, Path], tmp_path: Path
) -> None:
    given = policy_of(models["resnet"], image_size=(32, 32))
    with torch.no_grad():
        for tensor in tower_of(given).state_dict().values():
            tensor.add_(1)
    given.save_pretrained(tmp_path)
    settings: dict[str, Any] = {"image_size": (32, 32), "prefix_from": str(tmp_path)}
    policy = policy_of(models["resnet"], objective="flow", **settings)
    torch.testing.assert_close(tower_of(policy).state_dict(), tower_of(given).state_dict())
    with pytest.raises(ValueError, match="same vision tower: this one has siglip_vision_model"):
        policy_of(models["siglip"], **settings)
    with pytest.raises(ValueError, match="same vision tower: this one has KeypointTower"):
        policy_of(None, **settings)


# What is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("layernorm.weight"), r"1 differences\): missing layernorm.weight\. Downl"),
        (lambda t: t.update(foreign=torch.zeros(1)), "unknown foreign"),
        (lambda t: t.update({"layernorm.bias": torch.zeros(7)}), r"bias is \(7,\), exp.*\(16,\)"),
    ],
)
def test_weights_are_loaded_strictly(
    change: Callable[[dict[str, Tensor]], Any],
    message: str,
    models: dict[str, Path],
    tmp_path: Path,
) -> None:
    directory = shutil.copytree(models["dinov2"], tmp_path / "model")
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    model = find_vision_model(str(directory), "pretrained")
    with pytest.raises(VisionError, match=message):
        VisionTower(model, 128, directory)


def test_files_that_are_missing_or_cut_off_are_refused(
    models: dict[str, Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(models["dinov2"], tmp_path / "model")
    model = find_vision_model(str(directory), "pretrained")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(VisionError, match="cannot be read"):
        VisionTower(model, 128, directory)
    weights.unlink()
    with pytest.raises(VisionError, match="cannot be read"):
        VisionTower(model, 128, directory)
    (directory / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(VisionError, match="is a 'vit' model; a policy can see with dinov2, resnet"):
        find_vision_model(str(directory), "pretrained")
    (directory / "config.json").unlink()
    with pytest.raises(VisionError, match="holds no configuration of a model"):
        find_vision_model(str(directory), "pretrained")


def test_models_that_cannot_be_had_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VisionError, match="is neither resnet18, dinov2_small, siglip_base, nor a"):
        policy_of("resnet19")
    with pytest.raises(VisionError, match=r"did not give microsoft/resnet-18 \(.*hf download"):
        policy_of("resnet18")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(VisionError, match=r"pip install 'lerobot_policy_e0\[paligemma\]'"):
        policy_of("resnet18")


def test_settings_that_do_not_go_together_are_refused(models: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="is for the presets tiny and small: 'paligemma_debug'"):
        make_config(vision="resnet18", preset="paligemma_debug")
    with pytest.raises(ValueError, match="vision_weights must be pretrained or random, got 'no'"):
        make_config(vision="resnet18", vision_weights="no")
    with pytest.raises(ValueError, match="optimizer_lr_vision must be positive, got 0"):
        make_config(vision="resnet18", optimizer_lr_vision=0)
    with pytest.raises(ValueError, match="there is no camera to look through"):
        policy_of(models["resnet"], camera=False)


def test_random_weights_only_when_asked_for() -> None:
    sizes = {name: find_vision_model(name, "random").config["model_type"] for name in NAMED}
    assert [*sizes.values()] == ["resnet", "dinov2", "siglip_vision_model"]
    policy = policy_of("resnet18", vision_weights="random")
    count = sum(p.numel() for p in tower_of(policy).pretrained.parameters())
    assert count == 11_176_512, "torchvision's ResNet-18 without its classifier"
