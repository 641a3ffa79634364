"""What does not fit is refused with a message that says what was expected and what came."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies import make_policy, make_pre_post_processors
from small_dataset import (
    ACTION_DIM,
    CAMERA,
    EPISODES,
    STEPS,
    VECTORS,
    build,
    collate,
    make_config,
    metadata,
    write_dataset,
)

from e0.tokens import TokenizerNotFittedError
from lerobot_policy_e0 import E0Config, E0Policy, ManiSkillEnvConfig
from lerobot_policy_e0.columns import read_actions


def random_actions(dimensions: int = ACTION_DIM) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (EPISODES, STEPS, dimensions))


# Datasets


def test_a_dataset_without_actions(tmp_path: Path) -> None:
    meta = metadata(write_dataset(tmp_path / "blind", without_action=True))
    with pytest.raises(ValueError, match=r"has no feature 'action', only \[.*observation\.state"):
        read_actions(meta)
    with pytest.raises(ValueError, match="needs the feature 'action', one vector per step"):
        make_policy(make_config(), ds_meta=meta)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_actions_that_are_not_numbers(bad: float, tmp_path: Path) -> None:
    actions = random_actions()
    actions[1, 3, 2] = actions[2, 5, 2] = actions[2, 5, 6] = bad
    meta = metadata(write_dataset(tmp_path / "broken", actions=actions))
    with pytest.raises(ValueError, match=r"finite.*2 in dimension 2, 1 in dimension 6"):
        make_policy(make_config(), ds_meta=meta)


def test_a_constant_action_dimension_works(tmp_path: Path) -> None:
    actions = random_actions()
    actions[..., 4] = 0.5
    root = write_dataset(tmp_path / "constant", actions=actions)
    policy, preprocess, _ = build(root)
    batch = preprocess(collate(root, policy.config, [0, 1]))
    loss, _ = policy.forward(batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert (policy.predict_action_chunk(batch)[..., 4] == 0.5).all()


def test_a_dataset_without_episodes(vector_dataset: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(vector_dataset, tmp_path / "empty"))
    for file in (root / "data").glob("*/*.parquet"):
        file.unlink()
    with pytest.raises(ValueError, match=r"'local/empty' has no recorded steps under .*empty"):
        read_actions(metadata(root))


def test_actions_of_another_size_than_described(vector_dataset: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(vector_dataset, tmp_path / "cut"))
    file = next((root / "data").glob("*/*.parquet"))
    table = pyarrow.parquet.read_table(file)
    shorter = pyarrow.array([row[:-1] for row in table["action"].to_pylist()])
    index = table.column_names.index("action")
    pyarrow.parquet.write_table(table.set_column(index, "action", shorter), file)
    with pytest.raises(
        ValueError, match=r"'action' of 6 numbers, the dataset's description says 7"
    ):
        read_actions(metadata(root))


# Statistics


@pytest.mark.parametrize("missing", ["mean", "std"])
def test_statistics_of_a_vector_are_missing(missing: str, vector_dataset: Path) -> None:
    policy = build(vector_dataset)[0]
    stats = {name: dict(values) for name, values in metadata(vector_dataset).stats.items()}
    del stats["observation.force"][missing]
    with pytest.raises(ValueError, match=f"statistics lack {missing} of 'observation.force'"):
        make_pre_post_processors(policy.config, dataset_stats=stats)
    del stats["observation.force"]
    with pytest.raises(ValueError, match=r"statistics lack mean and std of 'observation\.force'"):
        make_pre_post_processors(policy.config, dataset_stats=stats)


def test_statistics_with_holes(vector_dataset: Path) -> None:
    policy = build(vector_dataset)[0]
    stats = {name: dict(values) for name, values in metadata(vector_dataset).stats.items()}
    stats["observation.state"]["std"] = np.array([1, np.nan, 1, 1], np.float32)
    with pytest.raises(ValueError, match=r"statistics of 'observation\.state' hold NaN"):
        make_pre_post_processors(policy.config, dataset_stats=stats)


def test_statistics_of_the_action_are_missing(vector_dataset: Path) -> None:
    config = build(vector_dataset)[0].config
    stats = dict(metadata(vector_dataset).stats)
    del stats["action"]
    with pytest.raises(ValueError, match=r"statistics hold no 'action', only \["):
        E0Policy(config, dataset_stats=stats)
    with pytest.raises(ValueError, match="kmeans"):
        E0Policy(
            dataclasses.replace(config, codebook="kmeans"),
            dataset_stats=metadata(vector_dataset).stats,
        )


def test_a_policy_without_data_cannot_act(vector_dataset: Path) -> None:
    built, preprocess, _ = build(vector_dataset)
    policy = E0Policy(built.config)
    batch = preprocess(collate(vector_dataset, built.config, [0]))
    with pytest.raises(TokenizerNotFittedError, match="call fit"):
        policy.select_action(batch)
    with pytest.raises(TokenizerNotFittedError, match="call fit"):
        policy.forward(batch)


# Batches


@pytest.fixture(scope="module")
def built(image_dataset: Path) -> tuple[E0Policy, Any, Any]:
    return build(image_dataset)


@pytest.fixture
def batch(image_dataset: Path, built: tuple[E0Policy, Any, Any]) -> dict[str, Any]:
    return built[1](collate(image_dataset, built[0].config, [0, 1]))


@pytest.mark.parametrize("name", [CAMERA, *VECTORS])
def test_another_feature_name(
    name: str, built: tuple[E0Policy, Any, Any], batch: dict[str, Any]
) -> None:
    other = f"{name}_2"
    batch[other] = batch.pop(name)
    expected = sorted([CAMERA, *VECTORS])
    for use in (built[0].forward, built[0].predict_action_chunk):
        with pytest.raises(ValueError) as error:
            use(batch)
        message = str(error.value)
        assert f"lacks ['{name}']" in message
        assert f"this policy expects {expected}" in message
        assert message.index(f"'{other}'") > message.index("the batch has")
        assert "--rename_map" in message


def test_a_vector_of_another_size(built: tuple[E0Policy, Any, Any], batch: dict[str, Any]) -> None:
    batch["observation.force"] = torch.zeros(2, 6)
    with pytest.raises(ValueError, match=r"'observation\.force' must have shape \(B, 3\), got"):
        built[0].predict(batch)


def test_a_batch_without_actions(built: tuple[E0Policy, Any, Any], batch: dict[str, Any]) -> None:
    del batch["action"]
    with pytest.raises(ValueError, match=r"the batch has no 'action', only \["):
        built[0].forward(batch)


def test_a_chunk_of_another_length(built: tuple[E0Policy, Any, Any], batch: dict[str, Any]) -> None:
    batch["action"], batch["action_is_pad"] = (batch[k][:, 1:] for k in ("action", "action_is_pad"))
    with pytest.raises(ValueError, match=r"expected actions \(B, 5, 7\).*got \(2, 4, 7\)"):
        built[0].forward(batch)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_batch_with_broken_actions(
    bad: float, built: tuple[E0Policy, Any, Any], batch: dict[str, Any]
) -> None:
    batch["action"][1, 2, 3] = bad
    with pytest.raises(ValueError, match=r"actions must be finite.*1 in dimension 3"):
        built[0].forward(batch)


def test_a_missing_instruction(built: tuple[E0Policy, Any, Any], batch: dict[str, Any]) -> None:
    del batch["task"]
    with pytest.raises(ValueError, match=r"no 'task' text.*use_instruction=false"):
        built[0].forward(batch)


def test_an_instruction_that_is_too_long(
    built: tuple[E0Policy, Any, Any], batch: dict[str, Any]
) -> None:
    batch["task"] = ["short", "x" * 300]
    with pytest.raises(ValueError, match="300 bytes, 44 more than this policy's maximum of 256"):
        built[0].forward(batch)


def test_a_policy_without_instructions_needs_none(image_dataset: Path) -> None:
    policy, preprocess, _ = build(image_dataset, use_instruction=False)
    batch = preprocess(collate(image_dataset, policy.config, [0]))
    batch.pop("task", None)
    assert torch.isfinite(policy.forward(batch)[0])


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary_size": 1}, "vocabulary_size must be at least 2, got 1"),
        ({"horizon": 2}, r"n_action_steps \(3\) must lie between 1 and the horizon \(2\)"),
        ({"n_action_steps": 0}, r"n_action_steps \(0\) must lie between 1"),
        ({"preset": "huge"}, "unknown network preset 'huge'; known: .*tiny"),
        ({"codebook": "log"}, "unknown codebook 'log'; known: auto, uniform"),
        ({"dtype": "float16"}, "dtype must be float32 or bfloat16, got 'float16'"),
        ({"vector_noise": -1.0}, "vector_noise must not be negative"),
        ({"vector_noise": float("nan")}, "vector_noise must not be negative"),
        ({"objective": "flows"}, "unknown objective 'flows'; known: .*e0"),
        ({"head": "softmax"}, "unknown head 'softmax'; known: cosine, linear"),
        ({"mean_weight": -1.0}, "mean_weight must not be negative"),
        ({"embedding": "fourier"}, "unknown embedding 'fourier'; known: ordinal, one_hot"),
        ({"schedule": "exp"}, "unknown schedule 'exp'"),
        ({"time_distribution": "normal"}, "unknown time distribution 'normal'"),
        ({"sampler": "euler"}, "unknown sampler 'euler'"),
        ({"read_out": "mode"}, "unknown read-out 'mode'"),
        ({"denoising_steps": 0}, "denoising_steps must be at least 1"),
        ({"noise_draws": 0}, "noise_draws must be at least 1"),
        ({"maximum_instruction_bytes": 0}, "maximum_instruction_bytes must be at least 1"),
        (
            {"normalization_mapping": {"ACTION": NormalizationMode.MEAN_STD}},
            "must be IDENTITY for ACTION, got .*MEAN_STD",
        ),
        (
            {
                "preset": "paligemma_debug",
                "normalization_mapping": {"STATE": NormalizationMode.MEAN_STD},
            },
            "must be QUANTILES for STATE and ENV .*MEAN_STD",
        ),
        ({"image_size": (8, 128)}, r"image_size must be .* at least 16 .* got \(8, 128\)"),
        ({"image_size": 32}, "image_size must be a height and a width .* got 32"),
        ({"warmup_fraction": 1.5}, "warmup_fraction must lie between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused_at_once(changes: dict[str, Any], message: str) -> None:
    """By the configuration itself: before a dataset is read or downloaded."""
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


def features(**shapes: tuple[FeatureType, tuple[int, ...]]) -> dict[str, PolicyFeature]:
    return {
        f"observation.{name}": PolicyFeature(kind, shape) for name, (kind, shape) in shapes.items()
    }


@pytest.mark.parametrize(
    ("inputs", "action", "message"),
    [
        ({}, (7,), "at least one image or vector feature"),
        ({"grid": (FeatureType.STATE, (4, 4))}, (7,), r"'observation\.grid' has shape \(4, 4\)"),
        ({"state": (FeatureType.STATE, (4,))}, (2, 7), "one vector per step"),
    ],
)
def test_features_that_cannot_be_used(
    inputs: dict[str, Any], action: tuple[int, ...], message: str
) -> None:
    config: E0Config = make_config(
        input_features=features(**inputs),
        output_features={"action": PolicyFeature(FeatureType.ACTION, action)},
    )
    with pytest.raises(ValueError, match=message):
        E0Policy(config)


def test_an_unknown_task_suggests_the_closest() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'PickCub-v1'\. Did you mean 'PickCube-v1'"):
        ManiSkillEnvConfig(task="PickCub-v1")
    with pytest.raises(ValueError, match="a task is named twice"):
        ManiSkillEnvConfig(task="PickCube-v1, PickCube-v1")
    with pytest.raises(ValueError, match="unknown proprioception 'none'; known: full, compact"):
        ManiSkillEnvConfig(proprioception="none")
    with pytest.raises(ValueError, match="unknown task 'Nothing'"):
        ManiSkillEnvConfig(task="Nothing", state_only=True)
