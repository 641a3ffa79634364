"""What policies see of LIBERO, and what their actions do, looked at in the simulation itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from lerobot.envs.utils import preprocess_observation
from lerobot.processor.env_processor import LiberoProcessorStep
from scipy.spatial.transform import Rotation

from e0_bench.closed_loop.environments import Environment, EnvironmentSettings, open_environment
from e0_libero.env import LiberoEnv
from e0_libero.tasks import find_task

OBJECT = "alphabet_soup_1"
SIZE = 96


@pytest.fixture(scope="module")
def environment() -> Iterator[Environment]:
    options = (f"observation_height={SIZE}", f"observation_width={SIZE}")
    yield open_environment(EnvironmentSettings("libero", options), "libero_object/0")


@pytest.fixture
def inner(environment: Environment) -> Any:
    """LeRobot's environment of a single task, with LIBERO's in it, after a reset."""
    environment.reset(3)
    return environment.vector.envs[0].unwrapped


def seen(inner: Any) -> dict[str, Any]:
    """What a policy sees now, by LeRobot's own way from the simulator to its batch."""
    return processed(inner._format_raw_obs(inner._env.env._get_observations(force_update=True)))


def processed(observation: dict[str, Any]) -> dict[str, Any]:
    """LeRobot's environment's observation as its batch."""
    return LiberoProcessorStep().observation(preprocess_observation(_with_axis(observation)))


def _with_axis(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {name: _with_axis(value) for name, value in observation.items()}
    return np.asarray(observation)[None]


def place(inner: Any, x: float, y: float, z: float) -> None:
    sim, thing = inner._env.env.sim, inner._env.env.objects_dict[OBJECT]
    sim.data.set_joint_qpos(thing.joints[-1], np.array([x, y, z, 1, 0, 0, 0]))
    sim.forward()


def where(inner: Any, x: float, y: float, z: float) -> np.ndarray:
    """The middle (row, column) of what a picture shows of the object at a place."""
    place(inner, 0.0, 0.0, -5.0)
    without = seen(inner)["observation.images.image"][0]
    place(inner, x, y, z)
    change = (seen(inner)["observation.images.image"][0] - without).abs().sum(0)
    assert change.max() > 0.1
    return np.argwhere(change.numpy() > 0.1).mean(0)


def test_pictures_are_upright_and_mirrored_as_in_published_data(inner: Any) -> None:
    low, high = where(inner, 0.0, 0.0, 0.1), where(inner, 0.0, 0.0, 0.4)
    assert high[0] < low[0] - 5 and abs(high[1] - low[1]) < 5
    # The camera looks at the robot, with the world's y to its right. The simulator's pictures stand
    # on their head; OpenVLA and LeRobot turn them by 180 degrees, which also mirrors them.
    less, more = where(inner, 0.0, -0.15, 0.2), where(inner, 0.0, 0.15, 0.2)
    assert more[1] < less[1] - 10 and abs(more[0] - less[0]) < 5


def test_both_cameras_have_the_size_that_was_asked_for(inner: Any) -> None:
    batch = seen(inner)
    front, hand = (batch[f"observation.images.{name}"] for name in ("image", "image2"))
    assert front.shape == hand.shape == (1, 3, SIZE, SIZE) and front.max() <= 1
    place(inner, *inner._env.env.sim.data.site("gripper0_grip_site").xpos - [0, 0, 0.12])
    moved = seen(inner)
    assert (moved["observation.images.image2"] - hand).abs().mean() > 0.005, "in the hand's view"


def test_the_state_is_position_rotation_vector_and_fingers(inner: Any) -> None:
    state, sim = seen(inner)["observation.state"][0].numpy(), inner._env.env.sim
    assert state.shape == (8,)
    robot = inner._env.env.robots[0]
    np.testing.assert_allclose(state[:3], sim.data.site_xpos[robot.eef_site_id], atol=1e-4)
    hand = sim.data.get_body_xmat(robot.robot_model.eef_name).reshape(3, 3)
    turn = Rotation.from_rotvec(state[3:6]) * Rotation.from_matrix(hand).inv()
    assert turn.magnitude() < 0.01
    fingers = [sim.data.get_joint_qpos(f"gripper0_finger_joint{n}") for n in (1, 2)]
    np.testing.assert_allclose(state[6:], fingers, atol=1e-4)
    assert state[6] > 0 > state[7]


@pytest.fixture(scope="module")
def without_pictures() -> Iterator[LiberoEnv]:
    with closing(LiberoEnv("libero_object/0", official_states=True)) as env:
        yield env


def after(env: LiberoEnv, number: int, command: float, count: int) -> list[np.ndarray]:
    """The state (8,) before and after the same action, of one number, so many times."""
    seen = [env.reset(seed=3)[0]]
    action = np.zeros(7)
    action[6], action[number] = -1, command
    for _ in range(count):
        seen.append(env.step(action)[0])
    return [seen[0]["agent_pos"], seen[-1]["agent_pos"]]


def test_one_closes_the_gripper_and_minus_one_opens_it(without_pictures: LiberoEnv) -> None:
    def width(command: float) -> float:
        fingers = after(without_pictures, 6, command, 10)[1][6:]
        return float(fingers[0] - fingers[1])

    assert width(1.0) < 0.01 < 0.06 < width(-1.0)


def test_actions_move_the_hand_along_the_worlds_axes(without_pictures: LiberoEnv) -> None:
    for axis in range(3):
        before, then = after(without_pictures, axis, 0.5, 12)
        moved = (then - before)[:3]
        # 0.05 m a step for 1 is what is asked for; the arm does a quarter of it.
        assert 0.15 < moved[axis] / (12 * 0.5 * 0.05) < 0.4
        assert np.abs(np.delete(moved, axis)).max() < 0.25 * moved[axis]


def test_actions_turn_the_hand_about_the_worlds_axes(without_pictures: LiberoEnv) -> None:
    for axis in range(3):
        seen = after(without_pictures, 3 + axis, 0.2, 10)
        turns = [Rotation.from_rotvec(state[3:6]) for state in seen]
        turned = (turns[1] * turns[0].inv()).as_rotvec()
        assert 0.1 < turned[axis] / (10 * 0.2 * 0.5) < 0.5
        assert np.abs(np.delete(turned, axis)).max() < 0.25 * turned[axis]


def test_episodes_begin_settled_at_the_official_initial_states(environment: Environment) -> None:
    first = environment.reset(3)
    inner = environment.vector.envs[0].unwrapped
    sim, thing = inner._env.env.sim, inner._env.env.objects_dict[OBJECT]
    place_now = sim.data.get_joint_qpos(thing.joints[-1])
    official = inner._init_states[3]
    assert np.abs(sim.data.qvel).max() < 0.05, "nothing falls any more"
    start = 1 + sim.model.get_joint_qpos_addr(thing.joints[-1])[0]  # after the time
    np.testing.assert_allclose(place_now[:2], official[start : start + 2], atol=0.01)
    again = environment.reset(3)
    np.testing.assert_array_equal(first["pixels"]["image"], again["pixels"]["image"])
    other = environment.reset(4)
    assert not np.array_equal(other["pixels"]["image"], first["pixels"]["image"])


def test_suites_have_their_official_lengths_and_instructions(environment: Environment) -> None:
    assert environment.step_limit == 280
    assert environment.instruction == "pick up the alphabet soup and place it in the basket"


def test_what_experts_are_recorded_with_is_what_policies_are_evaluated_with(inner: Any) -> None:
    """The same pictures and state as LeRobot's environment and processor give, at the start of an
    official episode and later."""
    inner.init_state_id = 3
    theirs = inner.reset(seed=3)[0]
    with closing(LiberoEnv("libero_object/0", image_size=SIZE, official_states=True)) as env:
        ours = env.reset(seed=3)[0]
        assert env._max_episode_steps == inner._max_episode_steps
        assert env.task_description == inner.task_description
        for action in np.random.default_rng(0).uniform(-1, 1, (6, 7)):
            batch = processed(theirs)
            np.testing.assert_allclose(ours["agent_pos"], batch["observation.state"][0], atol=1e-6)
            for name in ("image", "image2"):
                picture = batch[f"observation.images.{name}"][0].permute(1, 2, 0).numpy()
                assert np.abs(ours["pixels"][name] / 255 - picture).max() < 0.02
            ours, theirs = env.step(action)[0], inner.step(action)[0]


def test_demonstrations_begin_elsewhere_than_official_episodes_and_as_their_seed_says() -> None:
    with closing(LiberoEnv("libero_object/0")) as env:
        states = []
        for seed in (3, 4, 3):
            env.reset(seed=seed)
            states.append(env.simulator.get_sim_state())
    np.testing.assert_array_equal(states[0], states[2])
    assert np.abs(states[0] - states[1]).max() > 0.005
    official = find_task("libero_object/0").initial_states
    for state in states:
        assert np.abs(official[:, 1:] - state[1:]).max(1).min() > 0.005  # after the time
