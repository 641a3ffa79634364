"""The policy for VLABench against a server: what it is told, and what is executed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vlabench_checkpoints import HOME, save_vlabench_policy

from e0_server.client import PolicyServerError
from e0_server.served import ObservationError
from e0_vlabench.errors import ObservationMismatchError, ServerMismatchError
from e0_vlabench.policy import ServedPolicy
from e0_vlabench.poses import BASE
from lerobot_policy_e0.serving import ServedCheckpoint
from running_server import serving

OURS = {"protocol": 1, "robot": "vlabench", "policy": "counting", "horizon": 4, "n_action_steps": 2}


class Counting:
    """Chunks whose steps count on: x is the number of the chunk, y that of the step in it."""

    def __init__(self, **metadata: Any) -> None:
        self.metadata = OURS | metadata
        self.asked: list[Mapping[str, Any]] = []
        self.next: Any = None

    def warm_up(self) -> None:
        pass

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(observation)
        if isinstance(self.next, Exception):
            raise self.next
        chunk = np.zeros((4, 7), np.float32)
        chunk[:, 0], chunk[:, 1] = len(self.asked) - 1, np.arange(4)
        entropy = np.full((4, 7), 0.5, np.float32)
        return {"actions": chunk if self.next is None else self.next, "entropy": entropy}


def observation(instruction: str = "Put the banana into the plate", pictures: int = 4) -> Any:
    """As VLABench's Evaluator gives them: every picture has a colour of its own."""
    rgb = np.stack([np.full((64, 64, 3), 10 * index, np.uint8) for index in range(pictures)])
    state = np.array([0, -0.17, 1.2, 1.0, 0, 0, 0, 0])
    return {"rgb": rgb, "ee_state": state, "instruction": instruction, "depth": None}


def test_both_cameras_the_state_and_the_first_instruction_are_told() -> None:
    policy = Counting()
    with serving(policy) as (url, _):
        client = ServedPolicy(url)
        assert client.control_mode == "ee"
        for text in ("Put the banana", "Another wording", "A third one"):
            client.predict(observation(text), unnorm_key="select_fruit")
        client.reset()
        client.predict(observation("Press the button"))
        client.close()
    assert [request["prompt"] for request in policy.asked] == [
        "Put the banana",
        "Put the banana",
        "Press the button",
    ]
    first = policy.asked[0]
    assert first["observation/image"].shape == (64, 64, 3)
    assert (first["observation/image"] == 20).all()
    assert (first["observation/wrist_image"] == 30).all()
    np.testing.assert_allclose(first["observation/state"], [0, 0.23, 0.42, 0, 0, 0, 0], atol=1e-6)


def test_a_chunk_is_executed_as_far_as_the_checkpoint_says_and_none_outlives_its_episode() -> None:
    policy = Counting()
    with serving(policy) as (url, _):
        client = ServedPolicy(url)
        poses = [client.predict(observation()) for _ in range(3)]
        client.reset(5)
        poses.append(client.predict(observation()))
        answers = client.answers
        client.close()
    steps = [(pose.position - BASE)[:2].tolist() for pose in poses]
    np.testing.assert_allclose(steps, [[0, 0], [0, 1], [1, 0], [2, 0]], atol=1e-6)
    assert [answer.entropy for answer in answers] == [0.5] and answers[0].milliseconds > 0


def test_chunks_of_an_episode_have_seeds_of_their_own() -> None:
    policy = Counting()
    with serving(policy) as (url, _):
        client = ServedPolicy(url)
        client.predict(observation())
        for seed in (7, 8):
            client.reset(seed)
            for _ in range(3):
                client.predict(observation())
        client.close()
    first, *seeds = [request.get("e0/seed") for request in policy.asked]
    assert first is None and seeds == [70_000, 70_001, 80_000, 80_001]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"protocol": 2}, r"speaks protocol 1 of e0 serve, and ws://.* tells 2: take client"),
        ({"protocol": None}, r"tells none, as openpi's own servers"),
        ({"robot": "libero"}, r"robot 'libero', not 'vlabench': start it with e0 serve CHECKPOINT"),
    ],
)
def test_a_server_for_others_is_refused(metadata: dict[str, Any], message: str) -> None:
    with (
        serving(Counting(**metadata)) as (url, _),
        pytest.raises(ServerMismatchError, match=message),
    ):
        ServedPolicy(url)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (
            np.zeros((4, 8), np.float32),
            r"expected a chunk of shape \(steps, 7\).*got shape \(4, 8\)",
        ),
        (np.zeros((1, 7), np.float32), "2 steps of a chunk are executed and sent 1"),
        (np.full((4, 7), np.nan, np.float32), "not finite"),
        ("nothing", r"got 'nothing'"),
        (ObservationError("observation/state: too far"), "observation/state: too far"),
    ],
)
def test_a_bad_chunk_is_not_executed_and_the_next_is_asked_for(chunk: Any, message: str) -> None:
    policy = Counting()
    with serving(policy) as (url, _):
        client = ServedPolicy(url)
        policy.next = chunk
        with pytest.raises((ServerMismatchError, PolicyServerError), match=message):
            client.predict(observation())
        assert client.answers == []
        policy.next = None
        assert client.predict(observation()).position[0] == pytest.approx(1)
        client.close()


def test_a_missing_picture_or_state_is_named_and_the_server_not_asked() -> None:
    policy = Counting()
    with serving(policy) as (url, _):
        client = ServedPolicy(url)
        with pytest.raises(ObservationMismatchError, match="got 3: the wrist's would be missing"):
            client.predict(observation(pictures=3))
        lacking = observation()
        del lacking["ee_state"]
        with pytest.raises(
            ObservationMismatchError, match="no 'ee_state'; it has rgb, instruction"
        ):
            client.predict(lacking)
        client.close()
    assert policy.asked == []


def test_a_real_checkpoint_acts_within_reach_and_the_same_by_its_seed(tmp_path: Path) -> None:
    served = ServedCheckpoint(save_vlabench_policy(tmp_path), "vlabench")
    with serving(served) as (url, _):
        client = ServedPolicy(url)
        assert client.metadata["control_rate"] == 10
        episodes = []
        for seed in (1, 1, 2):
            client.reset(seed)
            episodes.append([client.predict(observation()) for _ in range(6)])
            assert len(client.answers) == 2 and client.answers[0].entropy is not None
        client.close()
    positions = np.array([[pose.position for pose in episode] for episode in episodes])
    assert np.abs(positions - BASE - HOME[:3]).max() < 0.2
    assert np.array_equal(positions[0], positions[1])
    assert not np.array_equal(positions[0], positions[2])
    assert {finger for e in episodes for pose in e for finger in pose.fingers} <= {0.0, 0.04}
