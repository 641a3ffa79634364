"""The environment: what it shows, what it refuses, and that a seed names an episode exactly."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from sapien.render import RenderBodyComponent

from e0_maniskill import TASKS, Camera, CameraShift, ManiSkillEnv, sensors
from e0_maniskill.experts import Expert

LIFT = np.array([0, 0, 0.3, 0, 0, 0, 1], np.float32)


def assert_same(first: Any, second: Any) -> None:
    """Equal bit by bit, in nested dicts too."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    else:
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)


@pytest.fixture(scope="module")
def blind() -> Iterator[ManiSkillEnv]:
    env = ManiSkillEnv("PushCube-v1", state_only=True)
    yield env
    env.close()


@pytest.fixture(scope="module")
def seeing(rendering: None) -> Iterator[ManiSkillEnv]:
    env = ManiSkillEnv("PickCube-v1", hand_camera=True, image_size=64)
    yield env
    env.close()


def test_a_blind_step_is_a_step(seeing: ManiSkillEnv) -> None:
    """Black pictures while blind; afterwards everything is as if it had looked."""
    observations = []
    for blind in (False, True):
        seeing.reset(seed=4)
        seeing.blind = blind
        during = seeing.step(LIFT)[0]
        seeing.blind = False
        observations.append((during, seeing.step(LIFT)[0]))
    (seen, after), (unseen, after_unseen) = observations
    assert seeing.observation_space.contains(unseen)
    for name, picture in unseen["pixels"].items():
        assert seen["pixels"][name].any() and not picture.any()
    np.testing.assert_array_equal(seen["agent_pos"], unseen["agent_pos"])
    assert_same(after, after_unseen)


@pytest.mark.parametrize(
    ("task", "hand_camera", "shift"),
    [
        ("PickCube-v1", False, CameraShift()),
        ("PegInsertionSide-v1", True, CameraShift()),
        ("PushCube-v1", False, CameraShift(30, -10, 1.2, 10)),
    ],
)
def test_what_no_camera_sees_is_not_drawn(
    rendering: None,
    task: str,
    hand_camera: bool,
    shift: CameraShift,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pictures and depth are those of the whole scene, which afterwards is whole again."""
    env = ManiSkillEnv(task, hand_camera=hand_camera, camera_shift=shift, depth=True)
    env.reset(seed=3)
    parts = [
        body
        for entity in env.simulator.scene.sub_scenes[0].entities
        if (body := entity.find_component_by_type(RenderBodyComponent)) is not None
    ]
    generator = np.random.default_rng(0)
    for _ in range(5):
        observation = env.step(generator.uniform(-1, 1, 7).astype(np.float32))[0]
        shown = [body.visibility for body in parts]
        with sensors._without_unseen(env.simulator, env._sensors):
            assert [body.visibility for body in parts] < shown, "nothing was left out"
        assert [body.visibility for body in parts] == shown
        with monkeypatch.context() as patch:
            patch.setattr(sensors, "_without_unseen", lambda *_: nullcontext())
            whole = sensors.take_pictures(env.simulator, env._sensors)
            depth = sensors.measure_depth({name: env._sensors[name] for name in env._cameras})
        assert_same(observation["pixels"], whole)
        assert_same(observation["depth"], depth)
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_state_only_observations(task: str) -> None:
    env = ManiSkillEnv(task, state_only=True)
    observation, info = env.reset(seed=3)
    assert info == {"is_success": False, "wrong_object": False}
    assert env.observation_space.contains(observation)
    assert observation["environment_state"].shape == (17,)
    goal, poses = observation["environment_state"][:3], observation["environment_state"][3:]
    assert goal.any() == (TASKS[task].has_goal or TASKS[task].visible_goal is not None)
    for index in range(2):
        quaternion = poses[7 * index + 3 : 7 * index + 7]
        in_play = index < len(TASKS[task].objects)
        assert np.linalg.norm(quaternion) == pytest.approx(float(in_play), abs=1e-5)
    following, reward, terminated, truncated, info = env.step(LIFT)
    assert env.observation_space.contains(following)
    assert following["agent_pos"][11] > observation["agent_pos"][11], "the tool did not rise"
    assert (terminated, truncated) == (False, False)
    ways = {"way": -1, "between": False} if TASKS[task].ways else {}
    assert info == {"is_success": False, "wrong_object": False, "stage": 0} | ways
    assert isinstance(reward, float) and 0 <= reward < 1
    assert (env.task, env.instructions) == (task, TASKS[task].instructions)
    assert env.task_description in env.instructions
    assert env._max_episode_steps == TASKS[task].episode_length
    env.close()


def test_compact_proprioception_is_gripper_width_and_tool_position(blind: ManiSkillEnv) -> None:
    compact = ManiSkillEnv("PushCube-v1", state_only=True, proprioception="compact")
    full, _ = blind.reset(seed=5)
    short, _ = compact.reset(seed=5)
    compact.close()
    expected = np.concatenate([[full["agent_pos"][7:9].sum()], full["agent_pos"][9:12]])
    np.testing.assert_allclose(short["agent_pos"], expected, rtol=1e-6)


def test_the_tools_quaternion_keeps_its_sign() -> None:
    """The simulator's own changes it where the charger is grasped."""
    env = ManiSkillEnv("PlugCharger-v1", state_only=True)
    signs = set()
    for seed in (0, 1):
        seen, _ = env.reset(seed=seed)
        expert = Expert(env)
        for _ in range(60):
            after = env.step(expert.act())[0]
            assert np.abs(after["agent_pos"][12:] - seen["agent_pos"][12:]).max() < 0.2
            signs.add(bool(env.simulator.agent.tcp.pose.q[0, 1] > 0))
            seen = after
    env.close()
    assert signs == {True, False}


@pytest.mark.parametrize("task", ["PushCube-v1", "PickNamedCube-v1"])
def test_same_seed_is_the_same_episode_whatever_came_before(task: str) -> None:
    env, other = (ManiSkillEnv(task, state_only=True) for _ in range(2))
    first = _episode(env, seed=11)
    _episode(env, seed=12)
    assert_same(first, _episode(env, seed=11))
    assert_same(first, _episode(other, seed=11))
    env.close()
    other.close()


def test_rendered_episodes_are_the_same_bit_by_bit(seeing: ManiSkillEnv) -> None:
    first = _episode(seeing, seed=11)
    different = _episode(seeing, seed=12)
    assert_same(first, _episode(seeing, seed=11))
    assert (first["0"]["pixels"]["base_camera"] != different["0"]["pixels"]["base_camera"]).any()
    other = ManiSkillEnv("PickCube-v1", hand_camera=True, image_size=64)
    assert_same(first, _episode(other, seed=11))
    other.close()


def test_without_a_seed_the_generator_draws_one(blind: ManiSkillEnv) -> None:
    def drawn_after(seed: int) -> list[np.ndarray]:
        blind.reset(seed=seed)
        return [blind.reset()[0]["environment_state"] for _ in range(2)]

    first, second = drawn_after(1)
    assert (first != second).any()
    assert_same(dict(enumerate([first, second])), dict(enumerate(drawn_after(1))))


def test_rendered_observations(seeing: ManiSkillEnv) -> None:
    observation, _ = seeing.reset(seed=0)
    assert seeing.observation_space.contains(observation)
    assert list(observation["pixels"]) == ["base_camera", "hand_camera"]
    assert observation["environment_state"].shape == (3,)
    red = observation["pixels"]["base_camera"].astype(int) @ [1, -1, -1]
    assert (red > 60).sum() > 20, "the red cube is not in the picture"
    np.testing.assert_array_equal(seeing.render(), observation["pixels"]["base_camera"])
    following, *_ = seeing.step(LIFT)
    np.testing.assert_array_equal(seeing.render(), following["pixels"]["base_camera"])
    assert (following["pixels"]["hand_camera"] != observation["pixels"]["hand_camera"]).any()


def test_hidden_goal_is_in_no_picture(seeing: ManiSkillEnv) -> None:
    observation, _ = seeing.reset(seed=0)
    green = observation["pixels"]["base_camera"].astype(int) @ [-1, 1, -1]
    assert green.max() < 60


def test_camera_moves_for_one_episode(seeing: ManiSkillEnv) -> None:
    usual, _ = seeing.reset(seed=0)
    camera = seeing._cameras["base_camera"]
    moved, _ = seeing.reset(
        seed=0, options={"cameras": {"base_camera": camera.moved(CameraShift(12))}}
    )
    assert (moved["pixels"]["base_camera"] != usual["pixels"]["base_camera"]).mean() > 0.2
    np.testing.assert_array_equal(moved["agent_pos"], usual["agent_pos"])
    again, _ = seeing.reset(seed=0)
    assert_same(usual, again)


def test_hand_cameras_mesh_is_not_rendered(seeing: ManiSkillEnv) -> None:
    from sapien.render import RenderBodyComponent

    def mesh() -> Any:
        link = seeing.simulator.agent.robot.links_map["camera_link"]
        return link._objs[0].entity.find_component_by_type(RenderBodyComponent)

    seeing.simulator.reset(seed=0, options={"reconfigure": True})
    assert mesh() is not None, "ManiSkill no longer loads this mesh; the removal can go"
    seeing.reset(seed=0)
    assert mesh() is None


def test_expert_ends_the_episode_with_success(blind: ManiSkillEnv) -> None:
    blind.reset(seed=0)
    expert = Expert(blind)
    for _ in range(50):
        _, reward, terminated, truncated, info = blind.step(expert.act())
        assert info["is_success"] == terminated
        if terminated:
            break
    assert terminated and not truncated and reward == 1.0


def test_episode_is_truncated_at_the_limit() -> None:
    env = ManiSkillEnv("PushCube-v1", state_only=True, episode_length=2)
    env.reset(seed=0)
    assert [env.step(LIFT)[3] for _ in range(2)] == [False, True]
    env.close()


@pytest.mark.parametrize(
    "action",
    [
        np.zeros(6),
        np.zeros((1, 7)),
        np.full(7, 1.001),
        np.array([0, 0, 0, 0, 0, 0, np.nan]),
        np.array([-np.inf, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_impossible_actions_are_refused(blind: ManiSkillEnv, action: np.ndarray) -> None:
    blind.reset(seed=0)
    with pytest.raises(ValueError, match="an action"):
        blind.step(action)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "PushCub-v1"}, "Did you mean 'PushCube-v1'"),
        ({"proprioception": "tiny"}, "proprioception must be"),
        ({"render_mode": "human"}, "render_mode must be"),
        ({"episode_length": 0}, "episode_length must be"),
        ({"cameras": {}, "state_only": False}, "no camera"),
        ({"cameras": {"hand_camera": Camera((1, 0, 1), (0, 0, 0), 1.0)}}, "on the wrist"),
        ({"cameras": {"side": "left"}}, "must be a Camera"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ManiSkillEnv(arguments.pop("task", "PushCube-v1"), **arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"camera": {}}, "unknown reset options"),
        ({"cameras": {"side": Camera((1, 0, 1), (0, 0, 0), 1.0)}}, "cannot move camera 'side'"),
    ],
)
def test_impossible_reset_options_are_refused(
    blind: ManiSkillEnv, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        blind.reset(seed=0, options=options)


def test_life_cycle() -> None:
    env = ManiSkillEnv("PushCube-v1", state_only=True)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(LIFT)
    env.reset(seed=0)
    assert env.render().shape == (64, 64, 3) and not env.render().any()
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.reset(seed=0)


def test_variable_forbids_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E0_STATE_ONLY", "1")
    with pytest.raises(RuntimeError, match="E0_STATE_ONLY=1 is set"):
        ManiSkillEnv("PushCube-v1")


_WITHOUT_VULKAN = """
import warnings
warnings.filterwarnings("ignore")
import sapien.render
try:
    sapien.render.RenderMaterial()
except RuntimeError:
    print("no vulkan")
from e0_maniskill import TASKS, ManiSkillEnv, rendering_available
print(rendering_available()[0])
for task in TASKS:
    env = ManiSkillEnv(task, state_only=True)
    print(env.reset(seed=4)[0]["environment_state"].tobytes().hex())
    env.close()
"""


@pytest.mark.slow
def test_state_only_needs_no_vulkan_driver() -> None:
    nowhere = {"VK_DRIVER_FILES": "/nowhere.json", "VK_ICD_FILENAMES": "/nowhere.json"}
    path = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    result = subprocess.run(
        [sys.executable, "-c", _WITHOUT_VULKAN],
        capture_output=True,
        text=True,
        env=os.environ | nowhere | path,
    )
    assert result.returncode == 0, result.stderr
    no_vulkan, available, *states = result.stdout.split("\n")[:-1]
    assert (no_vulkan, available) == ("no vulkan", "False")
    for task, state in zip(TASKS, states, strict=True):
        env = ManiSkillEnv(task, state_only=True)
        assert env.reset(seed=4)[0]["environment_state"].tobytes().hex() == state
        env.close()


def test_state_only_leaves_rendering_intact(rendering: None) -> None:
    env = ManiSkillEnv("PushCube-v1", state_only=True)
    env.reset(seed=0)
    env.close()
    import sapien.render

    sapien.render.RenderMaterial().set_base_color([1, 0, 0, 1])


def _episode(env: ManiSkillEnv, seed: int) -> dict[str, Any]:
    """Observations of a reset and three steps, by step."""
    observations = [env.reset(seed=seed)[0]]
    observations += [env.step(LIFT)[0] for _ in range(3)]
    return {str(step): observation for step, observation in enumerate(observations)}
