"""E0Policy behind LeRobot's interface: factories, checkpoints, chunks and the action queue."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import make_policy, make_pre_post_processors
from safetensors.torch import load_file, save_file
from small_dataset import (
    ACTION_DIM,
    CAMERA,
    EPISODES,
    HORIZON,
    STEPS,
    TASKS,
    VECTORS,
    build,
    collate,
    make_config,
    metadata,
    write_dataset,
)
from torch import Tensor

from e0 import ActionChunk
from lerobot_policy_e0 import E0Config, E0Policy
from lerobot_policy_e0.columns import read_actions
from lerobot_policy_e0.modeling_e0 import CheckpointError

CODEBOOK = "model.tokenizer.codebook"
WEIGHT = "model.network.action_tokens.output.weight"


@pytest.fixture(scope="module")
def built(image_dataset: Path) -> tuple[E0Policy, Any, Any]:
    return build(image_dataset)


@pytest.fixture(scope="module")
def raw_batch(image_dataset: Path) -> dict[str, Any]:
    """Four samples: within episodes, and the last two steps of one."""
    return collate(image_dataset, make_config(), [0, STEPS + 3, STEPS - 2, STEPS - 1])


@pytest.fixture(scope="module")
def checkpoint(built: tuple[E0Policy, Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    for part in built:
        part.save_pretrained(directory)
    return directory


def noise(batch: int = 4) -> Tensor:
    shape = (batch, HORIZON, ACTION_DIM, 1)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


# Made for a dataset


def test_features_come_from_the_dataset(built: tuple[E0Policy, Any, Any]) -> None:
    policy = built[0]
    assert policy.model.settings.cameras == (CAMERA,)
    assert policy.model.settings.vectors == VECTORS
    assert policy.model.settings.action_dim == ACTION_DIM
    assert policy.config.action_delta_indices == list(range(HORIZON))


def test_codebooks_are_fitted_to_the_dataset(
    built: tuple[E0Policy, Any, Any], image_dataset: Path
) -> None:
    tokenizer = built[0].model.tokenizer
    actions = read_actions(metadata(image_dataset))
    assert actions.shape == (EPISODES * STEPS, ACTION_DIM)
    assert tokenizer.code_count.tolist() == [64] * 6 + [2]
    assert tokenizer.codebook[-1].unique().tolist() == [-1.0, 1.0]
    assert not tokenizer.count_out_of_range(actions).any()


def test_statistics_alone_fit_the_codebooks_too(image_dataset: Path) -> None:
    policy = build(image_dataset, codebook="uniform")[0]
    again = E0Policy(policy.config, dataset_stats=metadata(image_dataset).stats)
    torch.testing.assert_close(
        again.model.tokenizer.codebook[:6], policy.model.tokenizer.codebook[:6]
    )


def test_vectors_are_normalized_images_and_actions_are_not(
    built: tuple[E0Policy, Any, Any], image_dataset: Path, raw_batch: dict[str, Any]
) -> None:
    stats = metadata(image_dataset).stats
    batch = built[1](dict(raw_batch))
    for name in VECTORS:
        mean, std = (torch.as_tensor(stats[name][key]).float() for key in ("mean", "std"))
        torch.testing.assert_close(batch[name], (raw_batch[name] - mean) / std)
    torch.testing.assert_close(batch[CAMERA], raw_batch[CAMERA])
    torch.testing.assert_close(batch["action"], raw_batch["action"])
    torch.testing.assert_close(built[2](batch["action"][:, 0]), raw_batch["action"][:, 0])


def test_a_constant_feature_is_not_divided_by_its_deviation(image_dataset: Path) -> None:
    stats = metadata(image_dataset).stats
    state = {**stats["observation.state"]}
    state["std"] = np.array([1.0, 0.0, 1e-9, 2.0], np.float32)
    config = build(image_dataset)[0].config
    preprocess, _ = make_pre_post_processors(
        config, dataset_stats={**stats, "observation.state": state}
    )
    mean = torch.as_tensor(state["mean"]).float()
    out = preprocess({"observation.state": mean + 0.5, "task": "go"})["observation.state"]
    torch.testing.assert_close(out[0], torch.tensor([0.5, 0.5, 0.5, 0.25]))


def test_every_parameter_is_optimized_once_and_vectors_without_decay(
    built: tuple[E0Policy, Any, Any],
) -> None:
    policy = built[0]
    decayed, plain = policy.get_optim_params()
    assert "weight_decay" not in decayed and plain["weight_decay"] == 0.0
    assert all(p.ndim > 1 for p in decayed["params"])
    ids = [id(p) for group in (decayed, plain) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in policy.parameters())


# Training


def test_padded_actions_do_not_count(
    built: tuple[E0Policy, Any, Any], raw_batch: dict[str, Any]
) -> None:
    policy, preprocess, _ = built
    batch = preprocess(dict(raw_batch))
    padded = batch["action_is_pad"]
    assert padded.sum(1).tolist() == [0, 0, HORIZON - 2, HORIZON - 1]

    def losses(batch: dict[str, Any]) -> Tensor:
        torch.manual_seed(3)
        return policy.forward(batch, reduction="none")[0]

    other = {**batch, "action": batch["action"].masked_fill(padded[..., None], 0.25)}
    assert not torch.equal(other["action"], batch["action"])
    assert torch.equal(losses(batch), losses(other))
    without = losses({k: v for k, v in batch.items() if k != "action_is_pad"})
    assert not torch.equal(losses(batch)[2:], without[2:])


def test_the_mean_loss_is_the_mean_of_the_losses(
    built: tuple[E0Policy, Any, Any], raw_batch: dict[str, Any]
) -> None:
    policy, preprocess, _ = built
    batch = preprocess(dict(raw_batch))
    torch.manual_seed(3)
    each, _ = policy.forward(batch, reduction="none")
    torch.manual_seed(3)
    mean, _ = policy.forward(batch)
    assert each.shape == (4,)
    torch.testing.assert_close(mean, each.mean())


def test_vector_noise_is_for_training_only(image_dataset: Path, raw_batch: dict[str, Any]) -> None:
    policy, preprocess, _ = build(image_dataset, vector_noise=0.5)
    batch = preprocess(dict(raw_batch))
    policy.train()
    noisy = policy.observation(batch).vectors
    policy.eval()
    clean = policy.observation(batch).vectors
    for name in VECTORS:
        assert torch.equal(clean[name], batch[name])
        assert 0.1 < (noisy[name] - batch[name]).std() < 1.0


def test_mixed_precision_trains(image_dataset: Path, raw_batch: dict[str, Any]) -> None:
    policy, preprocess, _ = build(image_dataset, dtype="bfloat16")
    batch = preprocess(dict(raw_batch))
    torch.manual_seed(3)
    exact, _ = policy.forward(batch)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = policy.forward(batch)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.0)


# Acting


def test_chunks_follow_the_noise(
    built: tuple[E0Policy, Any, Any], raw_batch: dict[str, Any]
) -> None:
    policy, preprocess, _ = built
    batch = preprocess(dict(raw_batch))
    chunk = policy.predict(batch, noise=noise())
    again = policy.predict_action_chunk(batch, noise=noise())
    assert chunk.actions.shape == (4, HORIZON, ACTION_DIM)
    assert torch.equal(chunk.actions, again)
    other = policy.predict(batch, noise=-noise())
    assert not torch.equal(chunk.entropy, other.entropy)
    assert set(chunk.actions[..., -1].unique().tolist()) <= {-1.0, 1.0}


def test_actions_are_queued_and_reset_forgets_them(
    image_dataset: Path, raw_batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, preprocess, _ = build(image_dataset)
    batch = preprocess(dict(raw_batch))
    chunks: list[Tensor] = []
    predict = policy.predict

    def watched(batch: dict[str, Any], **options: Any) -> ActionChunk:
        chunk = predict(batch, **options)
        chunks.append(chunk.actions)
        return chunk

    monkeypatch.setattr(policy, "predict", watched)
    actions = [policy.select_action(batch, noise=noise()) for _ in range(7)]
    assert policy.last_chunk is not None and policy.last_chunk.actions is chunks[-1]
    assert len(chunks) == 3  # n_action_steps = 3: steps 0-2, 3-5 and 6
    for index, action in enumerate(actions):
        assert torch.equal(action, chunks[index // 3][:, index % 3])
    policy.reset()
    assert policy.last_chunk is None
    policy.select_action(batch, noise=noise())
    assert len(chunks) == 4


def test_an_observation_without_a_batch_axis_gets_one(built: tuple[E0Policy, Any, Any]) -> None:
    policy, preprocess, postprocess = built
    policy.reset()
    observation = {
        CAMERA: torch.rand(3, 64, 64),
        "observation.state": torch.zeros(4),
        "observation.force": torch.zeros(3),
        "task": TASKS[0],
    }
    action = postprocess(policy.select_action(preprocess(observation)))
    assert action.shape == (1, ACTION_DIM)


# Checkpoints


def test_a_checkpoint_holds_everything(
    built: tuple[E0Policy, Any, Any],
    checkpoint: Path,
    image_dataset: Path,
    raw_batch: dict[str, Any],
) -> None:
    policy, preprocess, postprocess = built
    saved = load_file(checkpoint / "model.safetensors")
    assert torch.equal(saved[CODEBOOK], policy.model.tokenizer.codebook)
    loaded = E0Policy.from_pretrained(checkpoint)
    config = PreTrainedConfig.from_pretrained(checkpoint)
    assert isinstance(config, E0Config)
    config.pretrained_path = checkpoint
    made = make_policy(config, ds_meta=metadata(image_dataset))
    loaded_preprocess, loaded_postprocess = make_pre_post_processors(config, str(checkpoint))
    expected = policy.predict_action_chunk(preprocess(dict(raw_batch)), noise=noise())
    batch = loaded_preprocess(dict(raw_batch))
    for other in (loaded, made):
        assert isinstance(other, E0Policy) and not other.training
        chunk = other.predict_action_chunk(batch, noise=noise())
        assert torch.equal(chunk, expected)
        assert torch.equal(loaded_postprocess(chunk[:, 0]), postprocess(expected[:, 0]))


def damaged(checkpoint: Path, directory: Path, change: Any) -> Path:
    """A copy of the checkpoint with other tensors."""
    directory.mkdir()
    (directory / "config.json").write_text((checkpoint / "config.json").read_text())
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(WEIGHT), rf"\(1 differences\): missing {WEIGHT}"),
        (lambda t: t.update(foreign=torch.zeros(1)), "unexpected foreign"),
        (lambda t: t.update({WEIGHT: t[WEIGHT][1:].clone()}), rf"{WEIGHT} is \(\d+, \d+\), exp"),
        (lambda t: t.pop(CODEBOOK), f"missing {CODEBOOK}"),
    ],
    ids=["missing", "foreign", "shape", "codebook"],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    change: Any, message: str, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        E0Policy.from_pretrained(damaged(checkpoint, tmp_path / "copy", change))


def test_a_checkpoint_from_before_outliers_were_told_apart_is_loaded(
    checkpoint: Path, tmp_path: Path, raw_batch: dict[str, Any], built: tuple[E0Policy, Any, Any]
) -> None:
    old = damaged(
        checkpoint, tmp_path / "old", lambda t: t.pop(CODEBOOK.replace("codebook", "bounds"))
    )
    batch = built[1](dict(raw_batch))
    chunks = [
        E0Policy.from_pretrained(directory).predict_action_chunk(dict(batch), noise=noise())
        for directory in (old, checkpoint)
    ]
    assert chunks[0].equal(chunks[1])


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_a_truncated_checkpoint_is_refused(length: int, checkpoint: Path, tmp_path: Path) -> None:
    copy = damaged(checkpoint, tmp_path / "copy", lambda tensors: None)
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*model\.safetensors"):
        E0Policy.from_pretrained(copy)


def test_a_checkpoint_without_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(CheckpointError, match="cannot read the checkpoint"):
        E0Policy.from_pretrained(tmp_path)


def test_loading_is_never_lenient(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="only ever loaded strictly"):
        E0Policy.from_pretrained(checkpoint, strict=False)


def test_finetuning_on_larger_actions_is_refused_or_begins_with_new_codes(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(1)
    actions = random.uniform(-0.9, 0.9, (EPISODES, STEPS, ACTION_DIM))
    actions[..., -1] = np.sign(actions[..., -1])
    actions[1, 2, 3] = 5.0
    few = metadata(write_dataset(tmp_path / "few", "image", actions=actions))
    with caplog.at_level(logging.WARNING):
        E0Policy.from_pretrained(checkpoint, dataset_meta=few)
    assert "beyond the codes train as the nearest one: 2.1 % of 3" in caplog.text
    actions[..., 3] = random.uniform(-3, 3, (EPISODES, STEPS))
    meta = metadata(write_dataset(tmp_path / "larger", "image", actions=actions))
    with pytest.raises(ValueError, match=r"% of 3 \(\[.*--policy\.refit_codebook=true"):
        E0Policy.from_pretrained(checkpoint, dataset_meta=meta)
    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.refit_codebook = True
    policy = E0Policy.from_pretrained(checkpoint, config=config, dataset_meta=meta)
    assert not policy.model.tokenizer.count_out_of_range(read_actions(meta)).any()
    policy.save_pretrained(tmp_path / "refitted")
    kept = PreTrainedConfig.from_pretrained(tmp_path / "refitted")
    assert not kept.refit_codebook, "the next training does not inherit it"


def test_finetuning_on_another_action_size_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    actions = np.random.default_rng(1).uniform(-1, 1, (EPISODES, STEPS, 6))
    meta = metadata(write_dataset(tmp_path / "six", "image", actions=actions))
    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.pretrained_path = checkpoint
    with pytest.raises(CheckpointError, match=rf"{CODEBOOK} is \(7, 64\), expected \(6, 64\)"):
        make_policy(config, ds_meta=meta)
