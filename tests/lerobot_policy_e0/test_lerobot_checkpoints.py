"""Policies that learn from another checkpoint: as a teacher (reflow), or as the prefix they start
from. It is no part of the new one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_dataset import build, collate, make_config

from lerobot_policy_e0 import E0Policy
from lerobot_policy_e0.modeling_e0 import CheckpointError
from lerobot_policy_e0.training import main


@pytest.fixture(scope="module")
def teacher(image_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    for part in build(image_dataset):
        part.save_pretrained(directory)
    return directory


def test_training_reflows_a_checkpoint(
    teacher: Path, image_dataset: Path, run_program: Callable[..., None], tmp_path: Path
) -> None:
    before = load_file(teacher / "model.safetensors")
    run_program(
        main,
        f"--policy.path={teacher}",
        f"--policy.reflow_from={teacher}",
        "--policy.reflow_steps=2",
        "--policy.push_to_hub=false",
        "--dataset.repo_id=local/images",
        f"--dataset.root={image_dataset}",
        f"--output_dir={tmp_path / 'out'}",
        "--steps=2",
        "--batch_size=2",
        "--num_workers=0",
        "--log_freq=1",
        "--env_eval_freq=0",
        "--wandb.enable=false",
    )
    last = tmp_path / "out/checkpoints/last/pretrained_model"
    after = load_file(last / "model.safetensors")
    assert after.keys() == before.keys()
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert changed and not any("tokenizer" in name for name in changed)
    torch.testing.assert_close(load_file(teacher / "model.safetensors"), before, rtol=0, atol=0)
    loaded = E0Policy.from_pretrained(last)
    assert loaded.config.reflow_from is None, "the next training does not inherit it"
    run = json.loads((last / "train_config.json").read_text())
    assert run["policy"]["reflow_from"] == str(teacher), "a resumed one goes on with it"
    assert loaded._teachers == [], "inference needs no teacher"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reflow_from": "no/such/place"}, "must be a checkpoint directory, and 'no/such/place'"),
        ({"objective": "flow"}, "has objective e0, this one has flow"),
        ({"codebook": "quantile"}, "other codebooks than this one: start from it with"),
    ],
)
def test_a_teacher_of_another_kind_is_refused(
    changes: dict[str, str], message: str, teacher: Path, image_dataset: Path
) -> None:
    policy, preprocess, _ = build(image_dataset, **{"reflow_from": str(teacher)} | changes)
    with pytest.raises(CheckpointError, match=message):
        policy(preprocess(collate(image_dataset, policy.config, [0])))


def test_reflow_steps_are_checked() -> None:
    with pytest.raises(ValueError, match="reflow_steps must be at least 1, got 0"):
        make_config(reflow_steps=0)


def test_a_new_policy_starts_with_the_prefix_of_another(
    teacher: Path, image_dataset: Path, tmp_path: Path
) -> None:
    given = E0Policy.from_pretrained(teacher).model.network.prefix_parameters()
    torch.manual_seed(1)
    settings = {"prefix_from": str(teacher), "objective": "flow"}
    policy, *processors = build(image_dataset, **settings)
    assert all(
        torch.equal(p, given[n]) for n, p in policy.model.network.prefix_parameters().items()
    )

    with torch.no_grad():
        policy.model.network.prefix_norm.weight.add_(1.0)  # learned on from there
    directory = tmp_path / "gone" / "policy"
    for part in (policy, *processors):
        part.save_pretrained(directory)
    config = directory / "config.json"
    config.write_text(config.read_text().replace(str(teacher), "no/such/place"))
    loaded = E0Policy.from_pretrained(directory)
    weight = policy.model.network.prefix_norm.weight
    assert torch.equal(loaded.model.network.prefix_norm.weight, weight)


def test_a_prefix_that_does_not_fit_is_refused(teacher: Path, image_dataset: Path) -> None:
    with pytest.raises(CheckpointError, match="prefix_from must be a checkpoint directory"):
        build(image_dataset, prefix_from="no/such/place")
    with pytest.raises(ValueError, match="the same use_instruction"):
        build(image_dataset, prefix_from=str(teacher), use_instruction=False)
