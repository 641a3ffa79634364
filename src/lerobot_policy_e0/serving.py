"""A LeRobot checkpoint as a policy that a server can serve."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.utils import prepare_observation_for_inference
from torch import Tensor

from e0.prefix import Prefix
from e0_server import PROTOCOL
from e0_server.observations import Reader
from e0_server.robots import FORMATS, Feature, layout_of
from e0_server.served import ObservationError
from lerobot_policy_e0.loading import (
    file_hashes,
    load_with_processors,
    on_this_disk,
    read_config,
)

SEED, PREFIX, DELAY = "e0/seed", "e0/prefix", "e0/delay"
OWN = (SEED, PREFIX, DELAY)
PROMPTS = ("prompt", "task")


class ServingError(ValueError):
    """A checkpoint that cannot be served."""


class ServedCheckpoint:
    """A policy of any type that LeRobot knows, answering one observation at a time.

    checkpoint: a directory or a hub id. robot: whose clients are served (`e0_server.robots`).
    renamed: keys on the wire and the features they become, where the robot's table has other names.
    device: where it runs; None for the checkpoint's own.

    Raises CheckpointError for what is no checkpoint, RobotFormatError if the robot's clients cannot
    use it, ServingError for a policy that acts on a history of observations, which no single
    request can bring.
    """

    def __init__(
        self,
        checkpoint: Path,
        robot: str,
        renamed: Mapping[str, str] | None = None,
        device: str | None = None,
    ) -> None:
        directory = on_this_disk(checkpoint)
        hashes = file_hashes(directory)
        config: Any = read_config(directory)
        config.device = device or config.device or "cpu"
        if getattr(config, "n_obs_steps", 1) > 1:
            raise ServingError(
                f"a policy of type {config.type!r} acts on the last {config.n_obs_steps} "
                "observations, and a server answers each request by itself. Serve one with "
                "n_obs_steps=1"
            )
        loaded = load_with_processors(directory, config)
        self._policy, self._device = loaded.policy, loaded.device
        self._preprocess, self._postprocess = loaded.preprocess, loaded.postprocess
        inputs = {
            name: Feature(tuple(feature.shape)) for name, feature in config.input_features.items()
        }
        self._takes_prompt = _takes_prompt(config, self._preprocess)
        self._blank = {name: _blank(feature) for name, feature in inputs.items()}
        horizon, action_size = self._chunk(dict(self._blank), "")[0].shape
        self._chunk_shape = (horizon, action_size)
        self._longest_delay = _longest_delay(self._policy)
        layout = layout_of(robot, inputs, action_size, horizon, renamed)
        self._rows = layout.rows
        self._reader = Reader(inputs, layout, any_size=config.type == "e0")
        self.metadata = {
            "protocol": PROTOCOL,
            "policy": config.type,
            "checkpoint": _sha256(hashes),
            "robot": robot,
            "observation": self._reader.expected,
            "features": {name: list(feature.shape) for name, feature in inputs.items()},
            "prompt": self._takes_prompt,
            "action_size": action_size,
            "action_names": getattr(config, "action_feature_names", None),
            "horizon": self._rows or horizon,
            "n_action_steps": getattr(config, "n_action_steps", None),
            "rtc_max_delay": self._longest_delay,
            "control_rate": FORMATS[robot].rate if robot in FORMATS else None,
            "conventions": dict(FORMATS[robot].conventions) if robot in FORMATS else {},
        }

    def warm_up(self) -> None:
        """Make ahead what the first chunk would wait for, in the thread that will make chunks."""
        batch = self._batch(dict(self._blank), "")
        if hasattr(self._policy, "warm_up"):
            self._policy.warm_up(batch)

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """A chunk: `actions` float32 (H, D) in the checkpoint's action units; `entropy` (H, D) in
        nats, from policies that have one.

        Raises ObservationError naming the key that is wrong, what came and what was expected.
        """
        began = time.perf_counter()
        features, rest = self._reader.read(observation)
        _refuse_unknown(rest)
        prompt, seed, given = self._prompt(rest), _seed(rest), self._given(rest)
        actions, entropy = self._chunk(features, prompt, seed, given)
        reply = {"actions": actions[: self._rows]}
        if entropy is not None:
            reply["entropy"] = entropy[: self._rows]
        took = 1e3 * (time.perf_counter() - began)
        return {**reply, "policy_timing": {"infer_ms": took}}

    @torch.inference_mode()
    def _chunk(
        self,
        features: dict[str, np.ndarray],
        prompt: str,
        seed: int | None = None,
        given: Prefix | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Actions and entropy (H, D) for features as LeRobot's robots give them."""
        if seed is not None:
            torch.manual_seed(seed)
        batch = self._batch(features, prompt)
        entropy: Tensor | None = None
        if hasattr(self._policy, "predict"):
            chunk = self._policy.predict(batch, **({} if given is None else {"prefix": given}))
            actions, entropy = chunk.actions, chunk.entropy
        else:
            actions = self._policy.predict_action_chunk(batch)
        actions = self._postprocess(actions).squeeze(0).float().cpu()
        if not actions.isfinite().all():
            raise FloatingPointError("it gave actions that are not finite numbers")
        return actions.numpy(), None if entropy is None else entropy[0].float().cpu().numpy()

    def _batch(self, features: dict[str, np.ndarray], prompt: str) -> dict[str, Any]:
        """The policy's input."""
        batch: Any = prepare_observation_for_inference(features, self._device, prompt)
        return self._preprocess(batch)

    def _given(self, rest: Mapping[str, Any]) -> Prefix | None:
        """The steps that are executed until this chunk comes: the first `e0/delay` rows of
        `e0/prefix` (T, D), what is left of the last chunk; all of them without a delay."""
        if PREFIX not in rest:
            if DELAY in rest:
                raise ObservationError(f"{DELAY}: it needs {PREFIX}, the steps that are executed")
            return None
        rows, (horizon, size) = rest[PREFIX], self._chunk_shape
        if self._longest_delay == 0:
            raise ObservationError(f"{PREFIX}: this policy cannot continue given steps")
        if not (
            isinstance(rows, np.ndarray)
            and rows.dtype.kind in "iuf"
            and rows.ndim == 2
            and rows.shape[1] == size
            and np.isfinite(rows).all()
        ):
            came = (
                f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else repr(rows)[:100]
            )
            raise ObservationError(
                f"{PREFIX}: expected finite numbers (steps, {size}), what is left of the last "
                f"chunk; {came} came"
            )
        delay = rest.get(DELAY, len(rows))
        most = min(len(rows), self._longest_delay, horizon - 1)
        if type(delay) is not int or not 0 <= delay <= most:
            raise ObservationError(
                f"{DELAY if DELAY in rest else PREFIX}: expected 0 to {most} steps (this policy "
                f"continues up to {self._longest_delay}, {len(rows)} came), got {delay!r}"
            )
        return Prefix.of_steps(torch.from_numpy(rows[None, :delay].astype(np.float32)), horizon)

    def _prompt(self, rest: Mapping[str, Any]) -> str:
        prompt = next((rest[name] for name in PROMPTS if name in rest), None)
        if prompt is None and not self._takes_prompt:
            return ""
        if not isinstance(prompt, str) or not prompt.strip():
            came = "nothing" if prompt is None else repr(prompt)[:100]
            raise ObservationError(
                f"prompt: this policy follows instructions and expects a text, {came} came"
            )
        return prompt


def _longest_delay(policy: Any) -> int:
    """The most steps that a policy can continue: 0 for one that cannot, or does it in another way
    than E0's."""
    if not hasattr(policy, "longest_delay") or not policy.supports_rtc():
        return 0
    return policy.longest_delay


def _takes_prompt(config: Any, preprocess: Any) -> bool:
    """Whether a policy acts on an instruction: E0's say so, those of others tokenize one."""
    if config.type == "e0":
        return bool(config.use_instruction)
    return any("Tokenizer" in type(step).__name__ for step in preprocess.steps)


def _seed(rest: Mapping[str, Any]) -> int | None:
    seed = rest.get(SEED)
    if seed is None or (type(seed) is int and 0 <= seed < 2**63):
        return seed
    raise ObservationError(f"{SEED}: expected a whole number from 0 to 2^63 - 1, {seed!r} came")


def _refuse_unknown(rest: Mapping[str, Any]) -> None:
    """Keys of ours that nobody knows are mistakes; what robots send beyond the table is theirs."""
    for key in rest:
        if key.startswith("e0/") and key not in OWN:
            raise ObservationError(f"{key[:100]}: it is unknown; known: {', '.join(OWN)}")


def _blank(feature: Feature) -> np.ndarray:
    """A black picture (H, W, 3), or zeros."""
    if feature.is_picture:
        channels, height, width = feature.shape
        return np.zeros((height, width, channels), np.uint8)
    return np.zeros(feature.shape, np.float32)


def _sha256(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(hashes), sort_keys=True).encode()).hexdigest()
