"""What a training, new or continued, is given: the episodes that it learns from, statistics that
can be used, and a word on what is ignored."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies import make_policy, make_pre_post_processors
from small_dataset import (
    ACTION_DIM,
    EPISODES,
    STEPS,
    TASKS,
    build,
    collate,
    make_config,
    metadata,
    open_dataset,
    write_dataset,
)
from torch.utils.data import default_collate

import lerobot_policy_e0.columns as columns_module
from lerobot_policy_e0 import E0Policy
from lerobot_policy_e0.columns import read_actions, trained_episodes
from lerobot_policy_e0.dataset import FramesInMemory
from lerobot_policy_e0.modeling_e0 import CheckpointError
from lerobot_policy_e0.statistics import usable_statistics


@pytest.fixture(scope="module")
def checkpoint(vector_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints") / "vectors"
    for part in build(vector_dataset):
        part.save_pretrained(directory)
    return directory


def continued(checkpoint: Path, meta: Any, **changes: Any) -> tuple[E0Policy, Any]:
    """A policy and its preprocessor as LeRobot's training makes them with --policy.path."""
    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.pretrained_path = checkpoint
    for name, value in changes.items():
        setattr(config, name, value)
    policy = make_policy(config, ds_meta=meta)
    assert isinstance(policy, E0Policy)
    overrides = {
        "device_processor": {"device": "cpu"},
        "normalizer_processor": {
            "stats": meta.stats,
            "features": {**policy.config.input_features, **policy.config.output_features},
            "norm_map": policy.config.normalization_mapping,
        },
        "rename_observations_processor": {"rename_map": {}},
    }
    preprocess, _ = make_pre_post_processors(
        config, pretrained_path=str(checkpoint), preprocessor_overrides=overrides
    )
    return policy, preprocess


# Episodes that are left out


@pytest.mark.parametrize("bad", [50.0, np.nan])
def test_nothing_is_fitted_to_episodes_that_are_left_out(bad: float, tmp_path: Path) -> None:
    actions = np.random.default_rng(1).uniform(-1, 1, (EPISODES, STEPS, ACTION_DIM))
    actions[2] = bad
    root = write_dataset(tmp_path / "part", actions=actions)
    dataset = open_dataset(root, make_config(), episodes=[0, 3])
    assert trained_episodes(dataset.meta) == [0, 3]
    kept = read_actions(dataset.meta)
    assert len(kept) == 2 * STEPS
    policy = make_policy(make_config(codebook="mu_law"), ds_meta=dataset.meta)
    torch.testing.assert_close(policy.model.tokenizer.codebook[:, -1], kept.amax(0))
    states = torch.stack([dataset[i]["observation.state"] for i in range(len(dataset))])
    preprocess, _ = make_pre_post_processors(policy.config, dataset_stats=dataset.meta.stats)
    seen = preprocess({"observation.state": states})["observation.state"]
    torch.testing.assert_close(seen.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.std(0, unbiased=False), torch.ones(4))


def test_a_dataset_without_a_selection_is_trained_on_whole(vector_dataset: Path) -> None:
    dataset = open_dataset(vector_dataset, make_config())
    assert trained_episodes(dataset.meta) is None
    assert len(read_actions(dataset.meta)) == EPISODES * STEPS


def test_a_streamed_dataset_has_only_statistics(vector_dataset: Path, monkeypatch: Any) -> None:
    meta = metadata(vector_dataset)
    config = make_config(codebook="mu_law")
    expected = make_policy(config, ds_meta=meta).model.tokenizer.codebook
    for module in (columns_module, "lerobot_policy_e0.training_start"):
        name = module if isinstance(module, str) else module.__name__
        monkeypatch.setattr(f"{name}.data_files", lambda _: [])
    streamed = make_policy(config, ds_meta=meta).model.tokenizer.codebook
    torch.testing.assert_close(streamed[:, -1], expected[:, -1])
    torch.testing.assert_close(streamed[:, 0], expected[:, 0])


# Statistics


@pytest.mark.parametrize(("value", "deviation"), [(0.3, 1.5e-4), (1234.5, 0.79)])
def test_what_is_constant_is_told_by_its_extremes(
    value: float, deviation: float, vector_dataset: Path
) -> None:
    """A deviation that was computed batch by batch is not zero (these are LeRobot's)."""
    config = build(vector_dataset)[0].config
    stats = {name: dict(values) for name, values in metadata(vector_dataset).stats.items()}
    state = stats["observation.state"]
    for key in ("min", "max", "mean"):
        state[key] = state[key].copy()
        state[key][1] = value
    state["std"] = state["std"].copy()
    state["std"][1] = deviation
    std = usable_statistics(config, stats)["observation.state"]["std"]
    assert std[1] == 1.0 and std[0] == pytest.approx(float(state["std"][0]))


@pytest.mark.parametrize("new", [True, False])
def test_a_constant_state_is_no_huge_number(new: bool, checkpoint: Path, tmp_path: Path) -> None:
    root = write_dataset(
        tmp_path / "constant", vectors={"observation.state": 4, "observation.force": 3}
    )
    meta = metadata(root)
    state = meta.stats["observation.state"]
    for key, value in (("min", 0.5), ("max", 0.5), ("mean", 0.5), ("std", 0.0)):
        state[key] = np.array([value, *state[key][1:]])
    if new:
        policy = make_policy(make_config(), ds_meta=meta)
        preprocess, _ = make_pre_post_processors(policy.config, dataset_stats=meta.stats)
    else:
        policy, preprocess = continued(checkpoint, meta)
    off = {"observation.state": torch.full((1, 4), 0.51), "observation.force": torch.zeros(1, 3)}
    assert preprocess(off)["observation.state"][0, 0] == pytest.approx(0.01, abs=1e-6)


@pytest.mark.parametrize("new", [True, False])
def test_a_state_with_holes_is_refused(new: bool, checkpoint: Path, vector_dataset: Path) -> None:
    meta = metadata(vector_dataset)
    meta.stats["observation.state"]["mean"] = np.array([0, np.nan, 0, 0])
    with pytest.raises(ValueError, match=r"'observation\.state' hold NaN .*--dataset\.episodes"):
        make_policy(make_config(), ds_meta=meta) if new else continued(checkpoint, meta)


def test_processors_without_statistics_are_refused(vector_dataset: Path) -> None:
    config = build(vector_dataset)[0].config
    with pytest.raises(ValueError, match=r"'observation\.state'\] cannot be normalized without"):
        make_pre_post_processors(config)


# Checkpoints that learn on


def test_a_vector_of_another_name_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    root = write_dataset(
        tmp_path / "renamed", vectors={"observation.state": 4, "observation.ft": 3}
    )
    with pytest.raises(
        ValueError, match=r"needs the vectors \['observation\.force'\], the dataset"
    ):
        continued(checkpoint, metadata(root))


def test_what_a_checkpoint_does_not_look_at_is_named(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = {"observation.state": 4, "observation.force": 3, "observation.touch": 2}
    root = write_dataset(tmp_path / "more", "image", vectors=more)
    with caplog.at_level(logging.WARNING):
        continued(checkpoint, metadata(root))
    assert "without observation.images.front, observation.touch" in caplog.text


def test_a_checkpoint_tells_what_the_numbers_of_its_actions_are_called(
    vector_dataset: Path, checkpoint: Path, tmp_path: Path
) -> None:
    meta, names = metadata(vector_dataset), [f"joint_{n}.pos" for n in range(ACTION_DIM)]
    meta.features["action"]["names"] = names
    continued(checkpoint, meta)[0].save_pretrained(tmp_path)
    assert PreTrainedConfig.from_pretrained(tmp_path).action_feature_names == names


def test_a_checkpoint_forgets_what_its_training_was_begun_with(
    vector_dataset: Path, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meta = metadata(vector_dataset)
    with caplog.at_level(logging.WARNING):
        policy, _ = continued(checkpoint, meta, reflow_from=str(checkpoint))
    assert f"learning the chunks of {checkpoint}" in caplog.text
    policy.save_pretrained(tmp_path)
    assert PreTrainedConfig.from_pretrained(tmp_path).reflow_from is None
    assert policy.config.reflow_from == str(checkpoint), "this training goes on as it is"


def test_an_adapter_is_called_one(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "config.json").write_text((checkpoint / "config.json").read_text())
    with pytest.raises(CheckpointError, match="holds an adapter"):
        E0Policy.from_pretrained(tmp_path)


# Instructions


@pytest.mark.parametrize("new", [True, False])
def test_texts_that_are_too_long_are_refused_before_training(
    new: bool, checkpoint: Path, vector_dataset: Path
) -> None:
    meta = metadata(vector_dataset)
    limit = {"maximum_instruction_bytes": 14}
    with pytest.raises(ValueError, match=rf"1 of the dataset's tasks .*'{TASKS[1]}'.*16 bytes"):
        if new:
            make_policy(make_config(**limit), ds_meta=meta)
        else:
            continued(checkpoint, meta, **limit)
    dataset = open_dataset(vector_dataset, make_config(), episodes=[0, 2])
    assert make_policy(make_config(**limit), ds_meta=dataset.meta), "episodes of the other task"


# Vectors and actions of one number, monochrome cameras


@pytest.mark.parametrize(
    ("vectors", "actions"),
    [
        ({"observation.state": 1}, ACTION_DIM),
        ({"observation.state": 4, "observation.gripper": 1}, ACTION_DIM),
        ({"observation.gripper": 1}, 1),
    ],
)
def test_features_of_one_number(vectors: dict[str, int], actions: int, tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, (EPISODES, STEPS, actions))
    root = write_dataset(tmp_path / "one", vectors=vectors, actions=values)
    policy, preprocess, postprocess = build(root)
    raw = collate(root, policy.config, [0, 5, 20])
    batch = preprocess(raw)
    for name, size in vectors.items():
        assert batch[name].shape == (3, size)
    policy.train().forward(batch)[0].backward()
    in_memory = FramesInMemory(open_dataset(root, policy.config))
    again = preprocess(default_collate([in_memory[i] for i in (0, 5, 20)]))
    torch.testing.assert_close(again["action"], batch["action"])
    alone = {name: torch.zeros(size) for name, size in vectors.items()} | {"task": TASKS[0]}
    action = postprocess(policy.select_action(preprocess(alone)))
    assert action.shape == (1, actions)


def test_a_monochrome_camera_is_seen() -> None:
    grey = "observation.images.grey"
    config = make_config(
        input_features={grey: PolicyFeature(FeatureType.VISUAL, (1, 32, 32))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        use_instruction=False,
    )
    policy = E0Policy(config)
    policy.model.tokenizer.fit(torch.randn(50, 2))
    assert policy.model.settings.cameras == (grey,)
    picture = torch.rand(3, 1, 32, 32)
    noise = torch.zeros(3, policy.config.horizon, 2, 1)
    chunk = policy.predict({grey: picture}, noise=noise).actions
    coloured = policy.predict({grey: picture.repeat(1, 3, 1, 1)}, noise=noise).actions
    assert torch.equal(chunk, coloured)
