"""Crop, rotation and colours in LeRobot's pipelines: on in training, off at inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_dataset import CAMERA, build, collate, make_config

from e0_bench.comparison.action_error import action_error
from lerobot_policy_e0.standard_augmentation import StandardAugmentation


@pytest.fixture
def raw(image_dataset: Path) -> dict[str, Any]:
    return collate(image_dataset, make_config(), [0, 15, 30])


def test_training_batches_change_and_others_do_not(
    image_dataset: Path, raw: dict[str, Any]
) -> None:
    policy, preprocess, _ = build(
        image_dataset, standard_augmentation=StandardAugmentation(probability=1.0)
    )
    batch = preprocess(dict(raw))
    assert torch.equal(batch[CAMERA], raw[CAMERA])
    changed = policy._augmented(batch)[CAMERA]
    assert changed.shape == raw[CAMERA].shape
    assert not torch.equal(changed, raw[CAMERA])
    assert changed.min() >= 0 and changed.max() <= 1
    losses = []
    for training in (False, True):
        policy.train(training)
        torch.manual_seed(0)
        losses.append(policy.forward(batch)[0])
        with torch.no_grad():  # as LeRobot computes the loss on its validation split
            torch.manual_seed(0)
            losses.append(policy.forward(batch)[0])
    assert losses[0] == losses[1] == losses[3] != losses[2]


def test_the_error_on_demonstrations_is_measured_on_pictures_as_they_are(
    image_dataset: Path, tmp_path: Path
) -> None:
    errors = []
    for name, probability in (("augmented", 1.0), ("plain", 0.0)):
        augmentation = StandardAugmentation(probability=probability)
        for part in build(image_dataset, standard_augmentation=augmentation):
            part.save_pretrained(tmp_path / name)
        errors.append(action_error(tmp_path / name, image_dataset))
    assert errors[0] == errors[1]


def test_probability_is_the_share_of_samples() -> None:
    torch.manual_seed(0)
    pictures = torch.rand(200, 3, 8, 8)
    for probability in (0.0, 0.3, 1.0):
        augmented = StandardAugmentation(probability)({"front": pictures})["front"]
        share = (augmented != pictures).flatten(1).any(1).float().mean()
        assert abs(share - probability) < 0.1


def test_colours_alone_leave_every_edge_where_it_is() -> None:
    torch.manual_seed(0)
    picture = torch.full((8, 3, 16, 16), 0.2)
    picture[..., 8:] = 0.7
    wrist = StandardAugmentation(1.0, colours_only=["wrist"])
    augmented = wrist({"wrist": picture, "front": picture})
    columns = augmented["wrist"]
    assert torch.equal(columns, columns[:, :, :1].expand_as(columns))
    assert (columns[..., 8] > columns[..., 7]).all()
    assert not torch.equal(augmented["front"], augmented["front"][:, :, :1].expand_as(picture))


def test_frames_of_a_sample_change_alike() -> None:
    torch.manual_seed(0)
    one = torch.rand(4, 1, 3, 16, 16)
    augmented = StandardAugmentation(1.0)({"front": one.repeat(1, 2, 1, 1, 1)})["front"]
    assert torch.equal(augmented[:, 0], augmented[:, 1])
    assert not torch.equal(augmented[0, 0], one[0, 0])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="probability must lie within"):
        StandardAugmentation(1.5)
    with pytest.raises(ValueError, match=r"cameras \['wrist'\], the batch has \['front'\]"):
        StandardAugmentation(1.0, ["wrist"])({"front": torch.rand(1, 3, 8, 8)})
