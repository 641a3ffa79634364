"""Checkpoints as they are served: what clients of each robot send, and what they are told."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies import make_pre_post_processors
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy

from e0_server.robots import RobotFormatError
from e0_server.served import ObservationError
from lerobot_policy_e0 import E0Config, E0Policy
from lerobot_policy_e0.checkpoints import CheckpointError
from lerobot_policy_e0.serving import ServedCheckpoint

LIBERO = {"observation.images.image": (3, 32, 32), "observation.images.wrist_image": (3, 32, 32)}


def features(**sizes: int) -> dict[str, PolicyFeature]:
    """Vector features."""
    return {f"observation.{n}": PolicyFeature(FeatureType.STATE, (s,)) for n, s in sizes.items()}


def save_e0(directory: Path, state: int, action: int, pictures: Any = (), **options: Any) -> Path:
    torch.manual_seed(0)
    visual = {
        name: PolicyFeature(FeatureType.VISUAL, shape) for name, shape in dict(pictures).items()
    }
    config = E0Config(
        input_features=features(state=state) | visual,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (action,))},
        device="cpu",
        push_to_hub=False,
        horizon=12,
        n_action_steps=4,
        image_size=(32, 32),
        **options,
    )
    policy = E0Policy(config)
    policy.model.tokenizer.fit(torch.empty(500, action).uniform_(-1, 1), config.codebook)
    for parameter in policy.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return _save(policy, directory, state)


def _save(policy: Any, directory: Path, state: int) -> Path:
    size = policy.config.action_feature.shape[0]
    statistics = {
        name: {
            "mean": torch.zeros(n),
            "std": torch.ones(n),
            "min": -torch.ones(n),
            "max": torch.ones(n),
        }
        for name, n in (("observation.state", state), ("action", size))
    }
    policy.save_pretrained(directory)
    for processor in make_pre_post_processors(policy.config, dataset_stats=statistics):
        processor.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def libero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_e0(tmp_path_factory.mktemp("libero"), 8, 7, LIBERO)


def observation(**changes: Any) -> dict[str, Any]:
    """What openpi's LIBERO client sends."""
    rng = np.random.default_rng(0)
    sent = {
        "observation/image": rng.integers(0, 255, (32, 32, 3), np.uint8),
        "observation/wrist_image": rng.integers(0, 255, (32, 32, 3), np.uint8),
        "observation/state": rng.normal(size=8),
        "prompt": "pick up the bowl",
        "e0/seed": 1,
    } | changes
    return {key: value for key, value in sent.items() if value is not None}


def test_a_chunk_is_that_of_the_policy_itself(libero: Path) -> None:
    served = ServedCheckpoint(libero, "libero")
    sent = observation()
    reply = served.infer(sent)
    policy = E0Policy.from_pretrained(libero)
    preprocess, _ = make_pre_post_processors(policy.config, str(libero))
    pictures = {
        name: torch.from_numpy(sent[key]).permute(2, 0, 1)[None] / 255
        for name, key in zip(LIBERO, ("observation/image", "observation/wrist_image"), strict=True)
    }
    state = torch.from_numpy(sent["observation/state"]).float()[None]
    batch = preprocess({**pictures, "observation.state": state, "task": ["pick up the bowl"]})
    torch.manual_seed(1)
    with torch.inference_mode():
        expected = policy.predict(batch)
    assert expected.entropy is not None
    np.testing.assert_allclose(reply["actions"], expected.actions[0], atol=1e-5)
    np.testing.assert_allclose(reply["entropy"], expected.entropy[0], atol=1e-4)
    assert reply["actions"].shape == reply["entropy"].shape == (12, 7)
    arrays = {key for key, value in reply.items() if isinstance(value, np.ndarray)}
    assert arrays == {"actions", "entropy"}  # clients cut every array step by step
    assert not np.array_equal(
        served.infer(observation(**{"e0/seed": 2}))["actions"], reply["actions"]
    )


def test_pictures_may_come_in_any_order_and_as_floats(libero: Path) -> None:
    served = ServedCheckpoint(libero, "libero")
    expected = served.infer(observation())["actions"]
    picture = observation()["observation/image"]
    for same in (picture.transpose(2, 0, 1), (picture / 255).astype(np.float32)):
        came = served.infer(observation(**{"observation/image": same}))["actions"]
        np.testing.assert_array_equal(came, expected)
    state = observation()["observation/state"].tolist()
    nested = observation(observation={"state": state}, **{"observation/state": None})
    np.testing.assert_allclose(served.infer(nested)["actions"], expected, atol=1e-5)
    assert served.infer(observation(**{"observation/image": np.zeros((64, 64, 3), np.uint8)}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"observation/image": None},
            r"^observation/image: it is missing, expected a picture \(32",
        ),
        ({"observation/image": np.zeros((32, 48, 3), np.uint8)}, r"uint8 \(32, 48, 3\) came"),
        ({"observation/image": np.zeros((8, 8, 3), np.uint8)}, r"uint8 \(8, 8, 3\) came"),
        ({"observation/image": np.zeros((32, 32, 4), np.uint8)}, r"uint8 \(32, 32, 4\) came"),
        ({"observation/image": np.zeros((32, 32), np.uint8)}, r"uint8 \(32, 32\) came"),
        ({"observation/image": np.zeros((32, 32, 3), np.int32)}, "int32"),
        ({"observation/image": np.full((32, 32, 3), 255.0)}, r"values beyond \[0, 1\]"),
        ({"observation/image": np.full((32, 32, 3), np.nan)}, r"values beyond \[0, 1\]"),
        ({"observation/image": "picture.png"}, "str 'picture.png' came"),
        ({"observation/state": np.zeros(7)}, r"8 finite numbers; float64 \(7,\) came"),
        ({"observation/state": np.zeros((1, 8))}, r"float64 \(1, 8\) came"),
        ({"observation/state": [[1.0], [2.0, 3.0]]}, "^observation/state: expected"),
        ({"observation/state": np.full(8, np.inf)}, r"\[inf, inf"),
        ({"observation/state": np.full(8, 1e300)}, r"\[inf, inf"),
        ({"observation/state": ["a"] * 8}, "list"),
        ({"observation": {"state": np.zeros(8)}}, "came twice"),
        ({"prompt": None}, "^prompt: .* nothing came"),
        ({"prompt": "  "}, "^prompt: .* '  ' came"),
        ({"prompt": 3}, "^prompt: .* 3 came"),
        ({"e0/seed": -1}, "^e0/seed: .* -1 came"),
        ({"e0/sead": 1}, "^e0/sead: .*e0/seed"),
    ],
)
def test_a_wrong_observation_is_told_by_its_key(
    libero: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ObservationError, match=message):
        _served(libero).infer(observation(**changes))


_KEPT: dict[Path, ServedCheckpoint] = {}


def _served(checkpoint: Path) -> ServedCheckpoint:
    if checkpoint not in _KEPT:
        _KEPT[checkpoint] = ServedCheckpoint(checkpoint, "libero")
    return _KEPT[checkpoint]


def test_clients_are_told_what_to_send(libero: Path) -> None:
    told = _served(libero).metadata
    assert told["observation"].keys() == {
        "observation/image", "observation/wrist_image", "observation/state"
    }  # fmt: skip
    assert told["prompt"] and told["horizon"] == 12 and told["action_size"] == 7
    assert told["control_rate"] == 20.0 and "gripper" in told["conventions"]["actions"]
    assert len(told["checkpoint"]) == 64


def test_robots_and_checkpoints_that_do_not_fit(libero: Path, tmp_path: Path) -> None:
    for robot, renamed, message in (
        ("droid", {}, "takes observation.images.image, .*exterior_image_1_left"),
        ("aloha", {}, "of 8 numbers, clients of 'aloha' send 14"),
        ("maniskill", {}, "which no key"),
        (
            "libero",
            {"observation/top": "observation.images.image"},
            "observation/top is no picture",
        ),
        ("libero", {"observation/image": "observation.images.top"}, "images.top is no feature"),
        ("robot", {}, "unknown robot 'robot'; known: native, libero"),
    ):
        with pytest.raises(RobotFormatError, match=message):
            ServedCheckpoint(libero, robot, renamed)
    for state, action, robot, message in (
        (7, 7, "libero", "of 7 numbers, clients of 'libero' send 8"),
        (8, 6, "libero", "actions of 6 numbers, clients of 'libero' take 7"),
    ):
        checkpoint = save_e0(tmp_path / f"{state}-{action}", state, action)
        with pytest.raises(RobotFormatError, match=message):
            ServedCheckpoint(checkpoint, robot)
    with pytest.raises(CheckpointError, match="does not exist"):
        ServedCheckpoint(tmp_path / "none", "native")


def test_droid_gets_ten_rows_from_two_vectors(tmp_path: Path) -> None:
    checkpoint = save_e0(tmp_path, 8, 8, use_instruction=False)
    served = ServedCheckpoint(checkpoint, "droid")
    sent = {"observation/joint_position": np.zeros(7), "observation/gripper_position": np.ones(1)}
    assert served.infer(sent)["actions"].shape == (10, 8)
    single = sent | {"observation/gripper_position": 1.0}
    assert served.infer(single)["actions"].shape == (10, 8)


def test_names_of_pictures_can_be_given(tmp_path: Path) -> None:
    checkpoint = save_e0(tmp_path, 8, 7, {"observation.images.top": (3, 32, 32)})
    with pytest.raises(RobotFormatError, match=r"images.top.*--rename KEY=FEATURE"):
        ServedCheckpoint(checkpoint, "libero")
    served = ServedCheckpoint(checkpoint, "libero", {"observation/image": "observation.images.top"})
    assert served.infer(observation())["actions"].shape == (12, 7)
    native = ServedCheckpoint(checkpoint, "native", {"camera": "observation.images.top"})
    sent = {
        "camera": np.zeros((32, 32, 3), np.uint8),
        "observation.state": np.zeros(8),
        "task": "go",
    }
    assert native.infer(sent)["actions"].shape == (12, 7)


def test_policies_of_others_are_served_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ACTConfig(
        input_features=features(state=4) | {"observation.images.a": _picture(32, 48)},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        chunk_size=5, n_action_steps=3, dim_model=32, n_heads=2, dim_feedforward=32,
        n_encoder_layers=1, n_vae_encoder_layers=1, latent_dim=4, device="cpu",
        pretrained_backbone_weights=None, push_to_hub=False,
    )  # fmt: skip
    served = ServedCheckpoint(_save(ACTPolicy(config), tmp_path, 4), "native")
    sent = {
        "observation.state": np.zeros(4),
        "observation.images.a": np.zeros((32, 48, 3), np.uint8),
    }
    reply = served.infer(sent)  # without a prompt
    assert reply["actions"].shape == (5, 2) and "entropy" not in reply
    smaller = sent | {"observation.images.a": np.zeros((16, 24, 3), np.uint8)}
    with pytest.raises(ObservationError, match=r"expected a picture \(32, 48, 3\), RGB"):
        served.infer(smaller)


def _picture(height: int, width: int) -> PolicyFeature:
    return PolicyFeature(FeatureType.VISUAL, (3, height, width))


def test_a_request_may_bring_the_steps_that_are_executed_meanwhile(tmp_path: Path) -> None:
    checkpoint = save_e0(tmp_path, 8, 7, use_instruction=False, rtc_training_max_delay=3)
    served = ServedCheckpoint(checkpoint, "libero")
    assert served.metadata["rtc_max_delay"] == 3
    sent = {"observation/state": np.zeros(8), "e0/seed": 1}
    alone = served.infer(sent)["actions"]
    left = np.linspace(-0.5, 0.5, 5 * 7, dtype=np.float32).reshape(5, 7)
    given = served.infer(sent | {"e0/prefix": left, "e0/delay": 2})
    np.testing.assert_array_equal(given["actions"][:2], left[:2])
    assert (given["entropy"][:2] == 0).all() and (given["entropy"][2:] > 0).all()
    assert not np.array_equal(given["actions"][2:], alone[2:])
    all_of_it = served.infer(sent | {"e0/prefix": left[:2]})["actions"]
    np.testing.assert_array_equal(all_of_it, given["actions"])
    np.testing.assert_array_equal(served.infer(sent | {"e0/prefix": left[:0]})["actions"], alone)
    for changes, message in (
        ({"e0/delay": 1}, "^e0/delay: it needs e0/prefix"),
        ({"e0/prefix": left}, r"^e0/prefix: expected 0 to 3 steps .*5 came.*, got 5"),
        ({"e0/prefix": left, "e0/delay": 4}, "^e0/delay: expected 0 to 3 steps"),
        ({"e0/prefix": left[:1], "e0/delay": 2}, "^e0/delay: expected 0 to 1 steps"),
        ({"e0/prefix": left, "e0/delay": "2"}, "got '2'"),
        ({"e0/prefix": left[:, :6]}, r"\(steps, 7\).*float32 \(5, 6\) came"),
        ({"e0/prefix": left[0]}, r"float32 \(7,\) came"),
        ({"e0/prefix": left * np.nan}, "^e0/prefix: expected finite numbers"),
        ({"e0/prefix": [[0.0] * 7]}, "^e0/prefix: expected finite numbers"),
    ):
        with pytest.raises(ObservationError, match=message):
            served.infer(sent | changes)
    with pytest.raises(ObservationError, match="cannot continue given steps"):
        ServedCheckpoint(
            save_e0(tmp_path / "r", 8, 7, use_instruction=False, objective="regression"), "libero"
        ).infer(sent | {"e0/prefix": left})


def test_actions_that_are_not_finite_are_never_sent(
    libero: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ServedCheckpoint(libero, "libero")
    monkeypatch.setattr(served, "_postprocess", lambda actions: actions * torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        served.infer(observation())
