"""Labels of checkpoints, and which of them are refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from e0.policy import OBJECTIVES
from e0_bench.closed_loop.checkpoints import (
    BenchmarkCheckpointError,
    check_fit,
    read_checkpoints,
    short_labels,
)
from e0_bench.closed_loop.decodings import OF_OBJECTIVE, DecodingError, make_decoding
from lerobot_policy_e0.checkpoints import CheckpointError
from lerobot_policy_e0.loading import load_policy, read_config
from made_checkpoints import save_act, save_policy

STATE = {"observation.state": (4,), "observation.environment_state": (17,)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An E0 and an ACT checkpoint where LeRobot puts them."""
    root = tmp_path_factory.mktemp("trainings")
    e0 = save_policy(root / "cubes/train/checkpoints/000200/pretrained_model", state_size=17)
    (root / "cubes/train/checkpoints/last").symlink_to("000200")
    return e0, save_act(root / "act/checkpoints/000100/pretrained_model", 17)


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["a/demo/train/checkpoints/2/pretrained_model"], ["demo"]),
        (["a/x/checkpoints/2/pretrained_model", "b/y"], ["x", "y"]),
        (["x/checkpoints/10/pretrained_model", "x/checkpoints/20/pretrained_model"],
         ["x@10", "x@20"]),
        (["a/x/checkpoints/5/pretrained_model", "b/x/checkpoints/5/pretrained_model"],
         ["a/x", "b/x"]),
    ],
)  # fmt: skip
def test_labels_are_as_short_as_they_can_be(paths: list[str], labels: list[str]) -> None:
    assert short_labels([Path("/runs") / path for path in paths]) == labels


def test_identity_is_the_content(made: tuple[Path, Path], tmp_path: Path) -> None:
    e0, act = made
    first, second = read_checkpoints([e0, act])
    assert (first.label, first.type, second.label, second.type) == ("cubes", "e0", "act", "act")
    recorded = {"mine": first.record()}
    copy = tmp_path / "elsewhere"
    shutil.copytree(e0, copy)
    assert [c.label for c in read_checkpoints([copy], recorded=recorded)] == ["mine"]
    (copy / "train_config.json").write_text("{}")
    assert [c.label for c in read_checkpoints([copy], recorded=recorded)] == ["mine"]
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"n_action_steps": 2}))
    assert [c.label for c in read_checkpoints([copy], recorded=recorded)] == ["elsewhere"]


def test_policies_keep_their_names_whatever_is_added_to_them(made: tuple[Path, Path]) -> None:
    (first,) = read_checkpoints([made[0]], ["mine"])
    decoded = first.decoded(make_decoding("one", {"start": "zero"}))
    assert decoded.label == "mine-one"
    recorded = {decoded.label: decoded.record()}
    assert [c.label for c in read_checkpoints(made, recorded=recorded)] == ["mine", "act"]


@pytest.mark.parametrize(
    ("objective", "idle"),
    [
        ("hybrid", "start"),
        ("flow", "read_out"),
        ("masked", "start"),
        ("dfm", "start"),
        ("autoregressive", "denoising_steps"),
        ("regression", "start"),
        ("mip", "denoising_steps"),
    ],
)
def test_what_an_objective_does_not_look_at_is_no_decoding(
    made: tuple[Path, Path], objective: str, idle: str
) -> None:
    config = dataclasses.replace(read_config(made[0]), objective=objective)
    value = {"start": "zero", "read_out": "median", "denoising_steps": 2}[idle]
    with pytest.raises(DecodingError, match=f"sets {idle}, which objective={objective} does not"):
        make_decoding("one", {idle: value}).of(config)


def test_every_objective_says_what_its_sampling_looks_at() -> None:
    assert set(OF_OBJECTIVE) == set(OBJECTIVES)


def test_a_device_without_bfloat16_is_refused_before_loading(
    made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(made[0])
    config.device, config.dtype = "cuda", "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    with pytest.raises(ValueError, match="Old GPU has no bfloat16"):
        load_policy(made[0], config)


def test_refused_checkpoints(made: tuple[Path, Path], tmp_path: Path) -> None:
    e0, act = made
    last = e0.parent.parent / "last" / "pretrained_model"
    incomplete, unknown = tmp_path / "incomplete", tmp_path / "unknown"
    for copy in (incomplete, unknown):
        shutil.copytree(e0, copy)
    (incomplete / "model.safetensors").unlink()
    config = json.loads((e0 / "config.json").read_text())
    (unknown / "config.json").write_text(json.dumps(config | {"type": "oracle"}))
    for arguments, message in (
        (([e0, last],), "the same checkpoint is given twice"),
        (([e0, act], ["x"]), "2 checkpoints, 1 labels"),
        (([e0, act], ["x", "x"]), "'x' stands for several"),
        (([],), "at least one"),
        (([tmp_path / "none"],), "none is not a LeRobot checkpoint directory: it does not exist"),
        (([e0.parent],), "lacks config.json.*did you mean .*pretrained_model"),
        (([incomplete],), "lacks model.safetensors"),
        (([unknown],), "not the configuration of a policy that is installed here.*oracle"),
        (([Path("nobody/nothing")],), "the hub gives no policy of this name"),
    ):
        with pytest.raises((BenchmarkCheckpointError, CheckpointError), match=message):
            read_checkpoints(*arguments)


def test_an_adapter_acts_with_the_policy_it_adapts(made: tuple[Path, Path], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, lora = made[0], tmp_path / "lora"
    config = read_config(base)
    policy = load_policy(base, config)
    noise = torch.randn(1, policy.config.horizon, 7, 1)
    batch = {name: torch.ones(1, *shape) for name, shape in STATE.items()} | {"task": ["go"]}
    batch = {name: batch[name] for name in (*config.input_features, "task")}
    before = policy.predict_action_chunk(batch, noise=noise)
    targets = policy._get_default_peft_targets()["target_modules"]
    model = peft.get_peft_model(policy, peft.LoraConfig(r=2, target_modules=targets))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    expected = model.base_model.model.predict_action_chunk(batch, noise=noise)
    assert not torch.allclose(expected, before)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(str(lora))
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        shutil.copy(base / name, lora / name)
    saved = json.loads((base / "config.json").read_text())
    (lora / "config.json").write_text(json.dumps(saved | {"use_peft": True}))
    (checkpoint,) = read_checkpoints([lora])
    assert {"adapter_model.safetensors", "base/model.safetensors"} <= checkpoint.files.keys()
    loaded = load_policy(lora, read_config(lora))
    torch.testing.assert_close(
        loaded.predict_action_chunk(batch, noise=noise), expected, atol=1e-4, rtol=1e-3
    )


def test_a_policy_of_the_hub(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", {"someone/cubes": str(made[0])}.get)
    (checkpoint,) = read_checkpoints([Path("someone/cubes")])
    assert (checkpoint.label, checkpoint.directory) == ("cubes", made[0])


def test_fit(made: tuple[Path, Path], tmp_path: Path) -> None:
    (act,) = read_checkpoints([made[1]])
    check_fit(act, "Push", STATE, 7)
    check_fit(act, "Push", STATE | {"observation.images.top": (3, 9, 9)}, 7)
    told = r"'act'.* does not fit Push: it has .*state \(4,\).* actions of 7 numbers; "
    for features, action_size, offered in (
        (STATE, 6, "offers .*takes 6"),
        (STATE | {"observation.state": (16,)}, 7, r"offers .*observation.state \(16,\)"),
        ({"observation.environment_state": (17,)}, 7, r"offers observation.environment_state"),
    ):
        with pytest.raises(BenchmarkCheckpointError, match=told + "the environment " + offered):
            check_fit(act, "Push", features, action_size)
    (seeing,) = read_checkpoints([save_policy(tmp_path / "seeing", 17, image_size=32)])
    check_fit(seeing, "Push", STATE | {"observation.images.base_camera": (3, 64, 64)}, 7)
    for images in ({}, {"observation.images.top": (3, 32, 32)}):
        with pytest.raises(BenchmarkCheckpointError, match=r"base_camera \(3, 32, 32\)"):
            check_fit(seeing, "Push", STATE | images, 7)


def test_saved_renaming_counts(made: tuple[Path, Path], tmp_path: Path) -> None:
    directory = tmp_path / "renamed"
    shutil.copytree(made[1], directory)
    path = directory / "policy_preprocessor.json"
    pipeline = json.loads(path.read_text())
    (step,) = (s for s in pipeline["steps"] if "rename" in s["registry_name"])
    step["config"]["rename_map"] = {"observation.joints": "observation.state"}
    path.write_text(json.dumps(pipeline))
    (checkpoint,) = read_checkpoints([directory])
    joints = {"observation.joints": (4,), "observation.environment_state": (17,)}
    check_fit(checkpoint, "Push", joints, 7)
