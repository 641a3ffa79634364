"""A policy for VLABench that asks `e0 serve` for its chunks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from e0_server import PROTOCOL
from e0_server.client import PolicyClient
from e0_vlabench.errors import ObservationMismatchError, ServerMismatchError
from e0_vlabench.poses import BASE, Pose, target_pose, told_state

ROBOT = "vlabench"
ACTION_SIZE = 7
FRONT, WRIST = 2, 3  # of VLABench's pictures: right, left, forward, wrist
TIMEOUT = 120.0  # seconds: time stands still in the simulation, and a first chunk may be slow
LONGEST_EPISODE = 10_000  # chunks, so that no two episodes draw the same random numbers


@dataclass(frozen=True)
class Answer:
    """What is kept of a chunk: mean entropy in nats, if the policy tells it, and the time from
    asking to having it."""

    entropy: float | None
    milliseconds: float


class ServedPolicy:
    """A policy for VLABench's Evaluator, and for `e0_vlabench.episodes`.

    url: as in ws://127.0.0.1:8000, of `e0 serve CHECKPOINT --robot vlabench`. A chunk's first steps
    are executed, as many as the checkpoint says (n_action_steps), then the next one is asked for.

    Raises PolicyServerError (PolicyUnreachableError if there is no answer in time) for a server
    that cannot be asked, ServerMismatchError for one that serves something else.
    """

    name = "e0"
    control_mode = "ee"  # VLABench's word for poses of the end effector

    def __init__(self, url: str, *, token: str | None = None, timeout: float = TIMEOUT) -> None:
        self._client = PolicyClient(url, token=token, timeout=timeout)
        self.metadata = self._client.metadata
        self._execute = _steps_to_execute(url, self.metadata)
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode: nothing of the last one is executed any more, the instruction is read
        anew. With a seed its chunks are the same each time."""
        self._seed = seed
        self._instruction: str | None = None
        self._steps: deque[np.ndarray] = deque()
        self.answers: list[Answer] = []

    def predict(self, observation: Mapping[str, Any], **_: Any) -> Pose:
        """The next pose for an observation of VLABench's Evaluator.

        It gives an instruction anew in every step, and for tasks with several another one: what is
        told is the first of the episode. Raises ObservationMismatchError if something is missing,
        and what `act` raises.
        """
        for key in ("rgb", "ee_state", "instruction"):
            if key not in observation:
                raise ObservationMismatchError(
                    f"VLABench's observation has no {key!r}; it has {', '.join(observation)}"
                )
        pictures = observation["rgb"]
        if len(pictures) <= WRIST:
            raise ObservationMismatchError(
                f"expected VLABench's four pictures (right, left, forward, wrist), got "
                f"{len(pictures)}: the wrist's would be missing"
            )
        return self.act(
            pictures[FRONT],
            pictures[WRIST],
            np.asarray(observation["ee_state"], np.float64),
            str(observation["instruction"]),
            np.asarray(observation.get("robot_frame", BASE), np.float64),
        )

    def act(
        self,
        front: np.ndarray,
        wrist: np.ndarray,
        ee_state: np.ndarray,
        instruction: str,
        base: np.ndarray = BASE,
    ) -> Pose:
        """The next pose.

        front, wrist: RGB pictures, uint8 (height, width, 3), upright. ee_state (8,): see
        `poses.told_state`. base (3,): where the robot stands, in metres.

        Raises PolicyServerError if there is no chunk, ServerMismatchError for one that cannot be
        executed; nothing is executed then, and the next call asks again.
        """
        if self._instruction is None:
            self._instruction = instruction
        if not self._steps:
            request: dict[str, Any] = {
                "observation/image": front,
                "observation/wrist_image": wrist,
                "observation/state": told_state(ee_state, base),
                "prompt": self._instruction,
            }
            if self._seed is not None:
                request["e0/seed"] = self._seed * LONGEST_EPISODE + len(self.answers)
            self._steps.extend(self._ask(request))
        return target_pose(self._steps.popleft(), base)

    def close(self) -> None:
        """Leave the server."""
        self._client.close()

    def _ask(self, request: Mapping[str, Any]) -> np.ndarray:
        """The steps to execute, (n, 7)."""
        began = time.perf_counter()
        answer = self._client.infer(request)
        took = 1e3 * (time.perf_counter() - began)
        steps = _checked_chunk(answer.get("actions"), self._execute)
        entropy = answer.get("entropy")
        self.answers.append(Answer(None if entropy is None else float(np.mean(entropy)), took))
        return steps


def _steps_to_execute(url: str, metadata: Mapping[str, Any]) -> int:
    """How many steps of a chunk are executed, after checking that the server is one for us."""
    protocol, robot = metadata.get("protocol"), metadata.get("robot")
    if protocol != PROTOCOL:
        told = "none, as openpi's own servers" if protocol is None else repr(protocol)
        raise ServerMismatchError(
            f"this client speaks protocol {PROTOCOL} of e0 serve, and {url} tells {told}: take "
            "client and server from the same version of E0"
        )
    if robot != ROBOT:
        raise ServerMismatchError(
            f"{url} serves clients of robot {robot!r}, not {ROBOT!r}: start it with "
            f"e0 serve CHECKPOINT --robot {ROBOT}"
        )
    return int(metadata.get("n_action_steps") or metadata["horizon"])


def _checked_chunk(actions: Any, execute: int) -> np.ndarray:
    """The first steps of a chunk (n, 7); all of them are checked before any is executed."""
    if not isinstance(actions, np.ndarray) or actions.ndim != 2 or actions.shape[1] != ACTION_SIZE:
        came = f"shape {actions.shape}" if isinstance(actions, np.ndarray) else repr(actions)[:40]
        raise ServerMismatchError(
            f"expected a chunk of shape (steps, {ACTION_SIZE}): position, Euler angles, gripper; "
            f"got {came}"
        )
    if len(actions) < execute:
        raise ServerMismatchError(
            f"the server says that {execute} steps of a chunk are executed and sent {len(actions)}"
        )
    if not np.isfinite(actions[:execute]).all():
        raise ServerMismatchError("the server sent a chunk with numbers that are not finite")
    return actions[:execute]
