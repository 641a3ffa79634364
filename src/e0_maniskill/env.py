"""One ManiSkill task as a plain Gymnasium environment: numpy in, numpy out, no batch dimension."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from e0_experts.cameras import Camera, CameraShift
from e0_maniskill.cameras import HAND_CAMERA, default_cameras
from e0_maniskill.rendering import allow_no_vulkan, keep_shaders_compiled, render_backend
from e0_maniskill.sensors import (
    FARTHEST,
    measure_depth,
    place_sensors,
    remove_hand_camera_mesh,
    take_pictures,
)
from e0_maniskill.stages import STAGES, stage_reached
from e0_maniskill.tasks import CONTROL_FREQUENCY, Task, find_task

Proprioception = Literal["full", "compact"]

PROPRIOCEPTION_SIZES = {"full": 16, "compact": 4}
GOAL_SIZE = 3
POSE_SIZE = 7
MAX_OBJECTS = 2
ACTION_SIZE = 7

_HAND_CAMERA_SIZE = 128
_HAND_CAMERA_FIELD_OF_VIEW = np.pi / 2  # as ManiSkill's panda_wristcam
_EMPTY_FRAME_SIZE = 64


class ManiSkillEnv(gymnasium.Env):
    """A ManiSkill task, seen by cameras of your choice, moved by small end-effector steps.

    Observations (a dict):
        pixels: camera name -> uint8 (height, width, 3); absent with `state_only`.
        depth: camera name -> uint16 (height, width), millimetres along the optical axis, 0 beyond
            65 m; only with `depth`, of fixed cameras.
        agent_pos: float32. "full": 9 joint positions (radians; the two fingers in metres), then the
            tool centre point's position (3, metres) and quaternion (4, wxyz, of the two signs the
            one that is steady while the tool points down: x is not negative): 16 numbers.
            "compact": gripper width (metres) and tool centre point (3): 4 numbers, coarse enough
            that a policy cannot recognize an episode by them.
        environment_state: float32. The position (3, metres) of a goal that cameras do not see,
            zeros for tasks without one. With `state_only` also that of a goal that they would see,
            and the poses (7 each) of up to two objects in play follow (see `Task.objects`), padded
            with zeros: 17 numbers for every task.

    Actions: (7,) within [-1, 1]: translation of the tool in steps of up to 0.1 m, rotation vector
    in steps of up to 0.1 rad with ManiSkill's sign (negative turns counter-clockwise), gripper
    (1 open, -1 closed). ManiSkill's `pd_ee_delta_pose` at 20 Hz.

    An episode terminates on success, once the wrong object is lifted where an instruction names
    one, or once a post that is to be passed is knocked, and is truncated at the step limit;
    `info["is_success"]` and `info["wrong_object"]` are there on every step. Where a task can be
    done in several ways (see `Task.ways`), so are `info["way"]`, the one that is being gone
    (counted from 0; -1 while that is open), and `info["between"]`, whether the tool is where it is
    on none of them. `info["stage"]` is the number of the last of `stages` that the present state
    reaches, 0 for none (see `e0_maniskill.stages`). `task_description` is the present episode's
    instruction, one of `instructions`. The reward is ManiSkill's normalized dense one, and for
    PlugCharger-v1, which has none, 1 on success. Every reset rebuilds the scene, so that the same
    seed gives the same episode bit by bit, whatever happened before.

    `blind` may be set at any time of an episode, and a reset ends it: observations then carry black
    pictures and depth 0 while the simulation goes on. Drawing is most of a step's time on a CPU,
    and a policy that still has actions of its chunk to give looks at nothing.

    Args:
        task: a name in `TASKS`.
        cameras: fixed cameras by name; `default_cameras(task)` if None.
        camera_shift: displaces all fixed cameras on the spheres around their targets.
        depth: observe depth as well.
        hand_camera: adds a camera on the wrist, named "hand_camera" (90 degrees, 128 px).
        image_size: overrides the size of all cameras, in pixels (square).
        proprioception: "full" or "compact".
        state_only: no cameras; needs no Vulkan driver and is ten times faster.
        episode_length: step limit; the task's own if None.
        render_mode: only "rgb_array".

    Raises:
        ValueError: unknown task, camera, proprioception or mode.
        RuntimeError: cameras are wanted and this machine cannot render.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_FREQUENCY}  # noqa: RUF012

    def __init__(
        self,
        task: str,
        *,
        cameras: Mapping[str, Camera] | None = None,
        camera_shift: CameraShift | None = None,
        depth: bool = False,
        hand_camera: bool = False,
        image_size: int | None = None,
        proprioception: Proprioception = "full",
        state_only: bool = False,
        episode_length: int | None = None,
        render_mode: str = "rgb_array",
    ) -> None:
        specification = find_task(task)
        if proprioception not in PROPRIOCEPTION_SIZES:
            raise ValueError(f"proprioception must be full or compact, got {proprioception!r}")
        if render_mode != "rgb_array":
            raise ValueError(f"render_mode must be 'rgb_array', got {render_mode!r}")
        if episode_length is not None and episode_length < 1:
            raise ValueError(f"episode_length must be at least 1 step, got {episode_length}")
        self._specification = specification
        self.task = specification.name
        self.instructions = specification.instructions
        self.task_description = self.instructions[0]
        self.stages = tuple(STAGES.get(task, {}))
        self._max_episode_steps = episode_length or specification.episode_length
        self.render_mode = render_mode
        self._proprioception = proprioception
        self._state_only = state_only
        self._hand_camera = _hand_camera(image_size) if hand_camera and not state_only else None
        fixed = _fixed_cameras(specification, cameras, camera_shift, image_size)
        self._cameras = {} if state_only else fixed
        self._depth = depth and not state_only
        if self._hand_camera is None and not self._cameras and not state_only:
            raise ValueError("no camera: give one in `cameras`, or use state_only=True")
        self._state_size = GOAL_SIZE + (MAX_OBJECTS * POSE_SIZE if state_only else 0)
        self.observation_space = self._make_observation_space()
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self.blind = False
        self._sensors: Mapping[str, Any] = {}
        self._steps: int | None = None
        self._frame = np.zeros((_EMPTY_FRAME_SIZE, _EMPTY_FRAME_SIZE, 3), np.uint8)
        self._simulator = _make_simulator(specification, hand_camera, state_only)

    @property
    def simulator(self) -> Any:
        """ManiSkill's own environment (a `BaseEnv` of one scene), for experts.

        Raises:
            RuntimeError: this environment is closed.
        """
        if self._simulator is None:
            raise RuntimeError(f"this {self.task} environment is closed; make a new one")
        return self._simulator

    @property
    def specification(self) -> Task:
        """The task's data."""
        return self._specification

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start the episode of this seed; without a seed, draw one from `self.np_random`.

        Args:
            seed: names the episode.
            options: `{"cameras": {name: Camera}}` moves fixed cameras, for this episode only; names
                and picture sizes must be among those this environment was made with.

        Raises:
            ValueError: an unknown option, camera or picture size.
        """
        cameras = self._cameras_for_episode(options or {})
        self.blind = False
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        with allow_no_vulkan() if self._state_only else nullcontext():
            self.simulator.reset(seed=seed, options={"reconfigure": True})
        if not self._state_only:
            remove_hand_camera_mesh(self.simulator)
            self._sensors = place_sensors(self.simulator, cameras, self._hand_camera)
        self.task_description = self._instruction()
        self._steps = 0
        return self._observe(), {"is_success": False, "wrong_object": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Advance by 1/20 s.

        Raises:
            ValueError: the action is not 7 finite numbers within [-1, 1]; nothing is clipped.
            RuntimeError: no episode was started.
        """
        checked = _check_action(action)
        if self._steps is None:
            raise RuntimeError("call reset() before step()")
        _, reward, _, _, simulator_info = self.simulator.step(checked)
        self._steps += 1
        success = bool(simulator_info["success"])
        failed = bool(simulator_info.get("fail", False))
        wrong_object = failed and self._specification.chosen_instruction is not None
        info: dict[str, Any] = {
            "is_success": success,
            "wrong_object": wrong_object,
            "stage": stage_reached(self.task, self.simulator, simulator_info),
        }
        if self._specification.ways:
            info |= {
                "way": int(simulator_info["way"]),
                "between": bool(simulator_info["between"]),
            }
        truncated = self._steps >= self._max_episode_steps
        return self._observe(), float(reward), success or failed, truncated, info

    def render(self) -> np.ndarray:
        """The first camera's last picture, uint8 (height, width, 3).

        With `state_only` there is none: a black frame of 64 x 64 pixels, so that programs which
        record videos of every environment still run.
        """
        return self._frame.copy()

    def close(self) -> None:
        """Free the simulator; calling it again does nothing."""
        self._sensors = {}
        self._steps = None
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def _make_observation_space(self) -> spaces.Dict:
        agent_pos_size = PROPRIOCEPTION_SIZES[self._proprioception]
        observation: dict[str, spaces.Space] = {
            "agent_pos": spaces.Box(-np.inf, np.inf, (agent_pos_size,), np.float32),
            "environment_state": spaces.Box(-np.inf, np.inf, (self._state_size,), np.float32),
        }
        if not self._state_only:
            sizes = {name: (c.height, c.width, 3) for name, c in self._all_cameras().items()}
            observation["pixels"] = spaces.Dict(
                {name: spaces.Box(0, 255, size, np.uint8) for name, size in sizes.items()}
            )
        if self._depth:
            observation["depth"] = spaces.Dict(
                {
                    name: spaces.Box(0, FARTHEST, (camera.height, camera.width), np.uint16)
                    for name, camera in self._cameras.items()
                }
            )
        return spaces.Dict(observation)

    def _all_cameras(self) -> dict[str, Camera]:
        hand = {} if self._hand_camera is None else {HAND_CAMERA: self._hand_camera}
        return self._cameras | hand

    def _cameras_for_episode(self, options: dict[str, Any]) -> dict[str, Camera]:
        unknown = set(options) - {"cameras"}
        if unknown:
            raise ValueError(f"unknown reset options {sorted(unknown)}; only 'cameras' exists")
        moved: Mapping[str, Camera] = options.get("cameras", {})
        for name, camera in moved.items():
            if name not in self._cameras:
                raise ValueError(
                    f"reset cannot move camera {name!r}; fixed cameras: {sorted(self._cameras)}"
                )
            expected = (self._cameras[name].width, self._cameras[name].height)
            if (camera.width, camera.height) != expected:
                raise ValueError(
                    f"camera {name!r} takes pictures of {expected} pixels (width, height); reset "
                    f"cannot change that to {(camera.width, camera.height)}"
                )
        return self._cameras | dict(moved)

    def _instruction(self) -> str:
        """What the present episode asks for."""
        attribute = self._specification.chosen_instruction
        index = 0 if attribute is None else int(getattr(self.simulator, attribute)[0])
        return self.instructions[index]

    def _observe(self) -> dict[str, Any]:
        observation: dict[str, Any] = {
            "agent_pos": self._agent_pos(),
            "environment_state": self._environment_state(),
        }
        if not self._state_only:
            observation["pixels"] = self._pictures()
        if self._depth:
            observation["depth"] = self._depths()
        return observation

    def _pictures(self) -> dict[str, np.ndarray]:
        if self.blind:
            sizes = {name: (c.height, c.width, 3) for name, c in self._all_cameras().items()}
            return {name: np.zeros(size, np.uint8) for name, size in sizes.items()}
        pictures = take_pictures(self.simulator, self._sensors)
        self._frame = next(iter(pictures.values()))
        return pictures

    def _depths(self) -> dict[str, np.ndarray]:
        if self.blind:
            return {n: np.zeros((c.height, c.width), np.uint16) for n, c in self._cameras.items()}
        return measure_depth({name: self._sensors[name] for name in self._cameras})

    def _agent_pos(self) -> np.ndarray:
        agent = self.simulator.agent
        joints = agent.robot.get_qpos()[0].numpy()
        tool = agent.tcp.pose.raw_pose[0].numpy().copy()
        if tool[4] < 0:
            tool[3:] *= -1
        if self._proprioception == "full":
            return np.concatenate([joints, tool]).astype(np.float32)
        return np.concatenate([[joints[-2:].sum()], tool[:3]]).astype(np.float32)

    def _environment_state(self) -> np.ndarray:
        state = np.zeros(self._state_size, np.float32)
        goal = self._specification.hidden_goal
        if self._state_only:
            goal = goal or self._specification.visible_goal
        if goal is not None:
            state[:GOAL_SIZE] = _pose(self.simulator, goal)[:3]
        if self._state_only:
            poses = [_pose(self.simulator, name) for name in self._specification.objects]
            state[GOAL_SIZE : GOAL_SIZE + len(poses) * POSE_SIZE] = np.concatenate(poses)
        return state


def _fixed_cameras(
    task: Task,
    cameras: Mapping[str, Camera] | None,
    shift: CameraShift | None,
    image_size: int | None,
) -> dict[str, Camera]:
    chosen = default_cameras(task) if cameras is None else dict(cameras)
    for name, camera in chosen.items():
        if name == HAND_CAMERA:
            raise ValueError(
                f"{HAND_CAMERA!r} is the camera on the wrist: set hand_camera=True, or choose "
                "another name for the fixed camera"
            )
        if not isinstance(camera, Camera):
            raise ValueError(f"camera {name!r} must be a Camera, got {type(camera).__name__}")
    if shift is not None:
        chosen = {name: camera.moved(shift) for name, camera in chosen.items()}
    if image_size is None:
        return chosen
    return {name: camera.resized(image_size) for name, camera in chosen.items()}


def _hand_camera(image_size: int | None) -> Camera:
    """The wrist camera's picture; its eye and target are only nominal, the robot carries it."""
    size = image_size or _HAND_CAMERA_SIZE
    return Camera((0, 0, 0), (1, 0, 0), _HAND_CAMERA_FIELD_OF_VIEW, width=size, height=size)


def _make_simulator(task: Task, hand_camera: bool, state_only: bool) -> Any:
    """ManiSkill's environment, which observes nothing by itself: its cameras are not ours."""
    backend = "none" if state_only else render_backend()
    if not state_only:
        keep_shaders_compiled(backend)
    import mani_skill.envs  # registers the tasks

    import e0_maniskill.either_cube  # registers ours
    import e0_maniskill.named_cube
    import e0_maniskill.pass_post
    import e0_maniskill.push_or_pick
    import e0_maniskill.two_styles  # noqa: F401

    mani_skill.logger.addFilter(_no_needless_warning)
    with allow_no_vulkan() if state_only else nullcontext():
        wrapped = gymnasium.make(
            task.name,
            obs_mode="none",
            reward_mode="normalized_dense" if task.dense_reward else "sparse",
            control_mode="pd_ee_delta_pose",
            robot_uids="panda_wristcam" if hand_camera else task.robot,
            sim_backend="cpu",
            render_backend=backend,
            num_envs=1,
        )
    return wrapped.unwrapped


def _no_needless_warning(record: logging.LogRecord) -> bool:
    """ManiSkill tells at every reset that PlaceSphere-v1's objects have no pose before they get
    theirs."""
    return "No initial pose set" not in record.getMessage()


def _pose(simulator: Any, name: str) -> np.ndarray:
    """Position (3) and quaternion (4, wxyz) of the simulator's actor or pose of this name."""
    thing = getattr(simulator, name)
    pose = getattr(thing, "pose", thing)
    return pose.raw_pose[0].numpy()


def _check_action(action: np.ndarray) -> np.ndarray:
    checked = np.asarray(action, dtype=np.float32)
    if checked.shape != (ACTION_SIZE,):
        raise ValueError(f"an action has shape ({ACTION_SIZE},), got {checked.shape}")
    if not np.isfinite(checked).all() or np.abs(checked).max() > 1:
        raise ValueError(
            f"an action is {ACTION_SIZE} finite numbers within [-1, 1], got {checked.tolist()}; "
            "check the policy's un-normalization"
        )
    return checked
