"""Viewpoint augmentation in LeRobot's pipelines: on in training, off at inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import draccus
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import make_pre_post_processors
from lerobot.utils.constants import OBS_IMAGES
from small_dataset import CAMERA, build, collate, make_config, metadata
from torch import Tensor

from e0.viewpoint import CameraGeometry, Perturbation
from lerobot_policy_e0 import E0Config, E0Policy
from lerobot_policy_e0.environment import ManiSkillEnvConfig
from lerobot_policy_e0.viewpoint import (
    NUMBERS,
    VIEWPOINT,
    TellViewpoint,
    ViewpointAugmentationStep,
    ViewpointSettings,
)

FRONT = CameraGeometry(field_of_view=50, elevation=40, table_offset=-0.05)


def settings(**own: Any) -> ViewpointSettings:
    return ViewpointSettings(**({"probability": 1.0, "cameras": {"front": FRONT}} | own))


@pytest.fixture
def raw(image_dataset: Path) -> dict[str, Any]:
    return collate(image_dataset, make_config(), [0, 15, 30])


def without_actions(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if not name.startswith("action")}


def seen_in_training(policy: E0Policy, batch: dict[str, Any]) -> Tensor:
    """The pictures that the network is shown while it learns from a batch."""
    shown: list[Tensor] = []
    look = policy.model.loss

    def watch(observation: Any, *others: Any) -> Tensor:
        shown.append(observation.images[CAMERA])
        return look(observation, *others)

    policy.model.loss = watch  # type: ignore[method-assign]
    policy.forward(batch)
    del policy.model.loss
    return shown[0]


def test_training_batches_move_and_others_do_not(image_dataset: Path, raw: dict[str, Any]) -> None:
    policy, preprocess, _ = build(image_dataset, viewpoint_augmentation=settings())
    batch = preprocess(dict(raw))
    assert torch.equal(batch[CAMERA], raw[CAMERA])
    policy.train()
    assert not torch.equal(seen_in_training(policy, batch), raw[CAMERA])
    with torch.no_grad():  # as LeRobot computes the loss on its validation split
        assert torch.equal(seen_in_training(policy, batch), raw[CAMERA])
    policy.eval()
    assert torch.equal(seen_in_training(policy, batch), raw[CAMERA])
    assert torch.equal(batch[CAMERA], raw[CAMERA]), "the batch itself stays as it is"


@pytest.mark.parametrize("before", [0.0, 1.0])
def test_a_continued_training_augments_as_it_is_told(
    before: float, image_dataset: Path, raw: dict[str, Any], tmp_path: Path
) -> None:
    for part in build(image_dataset, viewpoint_augmentation=settings(probability=before)):
        part.save_pretrained(tmp_path)
    config = PreTrainedConfig.from_pretrained(tmp_path)
    config.viewpoint_augmentation.probability = 1.0 - before
    policy = E0Policy.from_pretrained(
        tmp_path, config=config, dataset_meta=metadata(image_dataset)
    ).train()
    preprocess, _ = make_pre_post_processors(config, pretrained_path=str(tmp_path))
    shown = seen_in_training(policy, preprocess(dict(raw)))
    assert torch.equal(shown, raw[CAMERA]) is (before == 1.0)


def test_a_preprocessor_that_augments_by_itself_keeps_doing_so(
    image_dataset: Path, raw: dict[str, Any], tmp_path: Path
) -> None:
    """As those of checkpoints that were made when it was a processor's step."""
    policy, preprocess, postprocess = build(image_dataset, viewpoint_augmentation=settings())
    preprocess.steps.insert(-1, ViewpointAugmentationStep(settings()))
    for part in (policy, preprocess, postprocess):
        part.save_pretrained(tmp_path)
    loaded, _ = make_pre_post_processors(policy.config, pretrained_path=str(tmp_path))
    batch = loaded(dict(raw))
    assert not torch.equal(batch[CAMERA], raw[CAMERA])
    meta = metadata(image_dataset)
    again = E0Policy.from_pretrained(tmp_path, dataset_meta=meta).train()
    assert torch.equal(seen_in_training(again, batch), batch[CAMERA]), "moved once"
    config = PreTrainedConfig.from_pretrained(tmp_path)
    config.viewpoint_augmentation.azimuth = 3.0
    with pytest.raises(ValueError, match="augments by itself, with viewpoint_augmentation"):
        E0Policy.from_pretrained(tmp_path, config=config, dataset_meta=meta)


def test_another_policy_takes_it_in_three_lines(image_dataset: Path, raw: dict[str, Any]) -> None:
    from lerobot.policies.act.configuration_act import ACTConfig

    stats = metadata(image_dataset).stats
    config = ACTConfig(device="cpu")
    config.input_features = build(image_dataset)[0].config.input_features
    config.output_features = build(image_dataset)[0].config.output_features
    preprocess, _ = make_pre_post_processors(config, dataset_stats=stats)
    torch.manual_seed(0)
    before = preprocess(dict(raw))[CAMERA]
    step = ViewpointAugmentationStep(settings())
    preprocess.steps.insert(-1, step)
    assert not torch.equal(preprocess(dict(raw))[CAMERA], before)
    assert torch.equal(preprocess(without_actions(raw))[CAMERA], before)


def test_a_policy_is_told_how_its_cameras_moved(image_dataset: Path, raw: dict[str, Any]) -> None:
    policy, preprocess, _ = build(
        image_dataset, viewpoint_augmentation=settings(embedding=True, embedding_dropout=0.5)
    )
    assert policy.model.settings.vectors[VIEWPOINT] == NUMBERS
    many = {
        name: value.repeat(40, *[1] * (value.ndim - 1)) if torch.is_tensor(value) else value * 40
        for name, value in raw.items()
    }
    torch.manual_seed(0)
    told = policy._augmented(preprocess(many))[VIEWPOINT]
    known = told[:, -1] == 1
    assert 0.3 < known.float().mean() < 0.7
    assert (told[~known] == 0).all()
    assert (told[known, :2].abs() > 0).all()
    policy.train()
    assert policy.forward(preprocess(dict(raw)))[0].isfinite()
    policy.forward(preprocess(dict(raw)))[0].backward()
    projection = policy.model.network.vector_projections["observation_viewpoint"]
    assert projection.weight.grad is not None


def test_displacement_may_be_known_or_not_at_inference(
    image_dataset: Path, raw: dict[str, Any]
) -> None:
    policy, preprocess, _ = build(
        image_dataset, objective="flow", viewpoint_augmentation=settings(embedding=True)
    )
    batch = preprocess(without_actions(raw))
    noise = torch.randn(3, policy.config.horizon, 7, 1)
    unknown = policy.predict_action_chunk(batch, noise=noise)
    nothing = {VIEWPOINT: torch.zeros(3, NUMBERS)}
    torch.testing.assert_close(policy.predict_action_chunk(batch | nothing, noise=noise), unknown)
    shift = Perturbation(*torch.tensor([[15.0], [0.0], [1.0], [0.0]]).expand(4, 3))
    known = preprocess(without_actions(raw) | {VIEWPOINT: shift.embedding()})
    assert torch.equal(known[VIEWPOINT], shift.embedding())
    assert not torch.equal(policy.predict_action_chunk(known, noise=noise), unknown)


def test_depth_moves_pictures_and_is_no_camera(image_dataset: Path, raw: dict[str, Any]) -> None:
    step = ViewpointAugmentationStep(settings())
    from lerobot.lerobot_types import TransitionKey

    def augment(observation: dict[str, Any]) -> dict[str, Any]:
        torch.manual_seed(0)
        transition: Any = {
            TransitionKey.OBSERVATION: observation,
            TransitionKey.ACTION: raw["action"],
        }
        return dict(step(transition)[TransitionKey.OBSERVATION])  # type: ignore[literal-required]

    depth = 0.5 + torch.rand(3, 1, 64, 64)
    by_plane = augment({CAMERA: raw[CAMERA]})
    by_depth = augment({CAMERA: raw[CAMERA], f"{CAMERA}_depth": depth})
    assert not torch.equal(by_plane[CAMERA], by_depth[CAMERA])
    assert torch.equal(by_depth[f"{CAMERA}_depth"], depth)
    step = ViewpointAugmentationStep(settings(depth=False))
    unused = augment({CAMERA: raw[CAMERA], f"{CAMERA}_depth": depth})
    assert torch.equal(unused[CAMERA], by_plane[CAMERA])
    step = ViewpointAugmentationStep(settings())
    with pytest.raises(ValueError, match=r"millimetres; train with --dataset\.depth_output_unit=m"):
        augment({CAMERA: raw[CAMERA], f"{CAMERA}_depth": 1000 * depth})


def test_an_environment_tells_how_its_cameras_moved(raw: dict[str, Any]) -> None:
    shift = "15,-5,1.1,2"
    told, _ = ManiSkillEnvConfig(camera_shift=shift, tell_camera_shift=True).get_env_processors()
    expected = Perturbation(*torch.tensor([[15.0], [-5.0], [1.1], [2.0]]).expand(4, 3)).embedding()
    torch.testing.assert_close(told({CAMERA: raw[CAMERA]})[VIEWPOINT], expected)
    home, _ = ManiSkillEnvConfig(tell_camera_shift=True).get_env_processors()
    assert (home({CAMERA: raw[CAMERA]})[VIEWPOINT] == torch.eye(NUMBERS)[-1]).all()
    wrist = told({f"{OBS_IMAGES}.hand_camera": raw[CAMERA], CAMERA: raw[CAMERA]})[VIEWPOINT]
    assert torch.equal(wrist[:, :NUMBERS], expected), "cameras go by their names"
    assert (wrist[:, NUMBERS:] == torch.eye(NUMBERS)[-1]).all(), "the one on the wrist stayed"
    silent, _ = ManiSkillEnvConfig(camera_shift=shift).get_env_processors()
    assert VIEWPOINT not in silent({CAMERA: raw[CAMERA]})


def test_settings_come_from_the_command_line() -> None:
    config = draccus.parse(
        E0Config,
        args=[
            "--viewpoint_augmentation.probability=0.7",
            "--viewpoint_augmentation.azimuth=20",
            "--viewpoint_augmentation.skip=[wrist]",
            "--viewpoint_augmentation.cameras={base: {elevation: 40, table_offset: -0.05}}",
        ],
    )
    found = config.viewpoint_augmentation
    assert (found.probability, found.azimuth, found.skip) == (0.7, 20.0, ["wrist"])
    assert found.cameras == {"base": CameraGeometry(elevation=40, table_offset=-0.05)}


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"probability": 2.0}, "probability must lie"),
        ({"azimuth": 95.0}, "beyond a hemisphere"),
        ({"fill": "black"}, "known: reflect"),
        ({"embedding_dropout": -1.0}, "embedding_dropout"),
    ],
)
def test_impossible_settings_are_refused(own: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**own)


def test_cameras_that_are_not_there_are_named(image_dataset: Path, raw: dict[str, Any]) -> None:
    policy, preprocess, _ = build(image_dataset, viewpoint_augmentation=settings(skip=["wrist"]))
    with pytest.raises(ValueError, match=r"cameras \['wrist'\], the batch has \['front'\]"):
        policy.train().forward(preprocess(dict(raw)))


def test_a_prompt_preset_cannot_be_told(image_dataset: Path) -> None:
    with pytest.raises(ValueError, match="takes no vector features"):
        build(
            image_dataset,
            preset="paligemma_debug",
            viewpoint_augmentation=settings(embedding=True),
        )


@pytest.mark.parametrize("numbers", [{"radius": 0.0}, {"azimuth": float("nan")}])
def test_impossible_movements_are_not_told(numbers: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="finite degrees"):
        TellViewpoint(**numbers)
