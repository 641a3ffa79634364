"""A policy that acts by a server."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import ACTION, OBS_ENV_STATE
from torch import Tensor

from e0_server import TOKEN
from lerobot_policy_e0.batches import read_tasks
from lerobot_policy_e0.real_time import real_steps
from lerobot_policy_e0.remote.configuration_remote import RemoteConfig

if TYPE_CHECKING:
    from e0_server.client import PolicyClient


class RemotePolicy(PreTrainedPolicy):
    """Asks a server for every chunk. Has no weights and keeps no history.

    Making one connects to the server and takes over the features of what is served. Raises
    RuntimeError if there is no server, or it serves something else than `config.checkpoint` or
    other clients than native ones.
    """

    config_class = RemoteConfig  # pyright: ignore[reportAssignmentType]
    name = "remote"  # pyright: ignore[reportAssignmentType]

    def __init__(self, config: RemoteConfig, **_: Any) -> None:
        super().__init__(config)
        self.config: RemoteConfig = config
        self._client = _connect(config)
        told = self._client.metadata
        _check(told, config)
        config.checkpoint = told["checkpoint"]
        config.action_feature_names = told.get("action_names")
        config.input_features = {
            name: PolicyFeature(_kind(name, shape), tuple(shape))
            for name, shape in told["features"].items()
        }
        config.output_features = {ACTION: PolicyFeature(FeatureType.ACTION, (told["action_size"],))}
        if config.n_action_steps is None:
            config.n_action_steps = told["n_action_steps"] or told["horizon"]
        self._takes_prompt: bool = told["prompt"]
        self._longest_delay: int = told["rtc_max_delay"]
        self._last: Tensor | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the rest of the last chunk."""
        self._queue: deque[Tensor] = deque()
        self._last = None

    def supports_rtc(self) -> bool:
        """Whether the served policy can continue given steps."""
        return self._longest_delay > 0

    def predict_action_chunk(
        self,
        batch: dict[str, Tensor],
        *,
        inference_delay: int = 0,
        prev_chunk_left_over: Tensor | None = None,
        execution_horizon: int | None = None,
    ) -> Tensor:
        """A chunk (B, H, D) for each observation of a batch, in action units.

        prev_chunk_left_over: what is left of the last chunk of a single observation, (T, D) or
        (1, T, D), of which the first `inference_delay` steps will have been executed when this one
        comes; see `real_time`, also for rows that are none. execution_horizon is the number of
        rows that LeRobot's engine hands over; all that matters of it is in them.

        Raises PolicyUnreachableError if the server gave none in time, PolicyServerError if it
        refused the observation.
        """
        features = self.config.input_features or {}
        missing = sorted(features.keys() - batch.keys())
        if missing:
            raise ValueError(f"the batch lacks {missing}; the served policy takes {list(features)}")
        count = len(next(batch[name] for name in features))
        given = self._given(prev_chunk_left_over, inference_delay, count)
        requests = [self._request(batch, row) | given for row in range(count)]
        actions = [self._client.infer(sent)["actions"] for sent in requests]
        self._last = torch.from_numpy(np.stack(actions))
        return self._last.to(self.config.device or "cpu", copy=True)

    def select_action(self, batch: dict[str, Tensor]) -> Tensor:
        """The next action (B, D)."""
        if not self._queue:
            chunk = self.predict_action_chunk(batch)
            self._queue.extend(chunk[:, : self.config.n_action_steps].unbind(1))
        return self._queue.popleft()

    def _given(self, left: Tensor | None, delay: int, count: int) -> dict[str, Any]:
        """The steps that are executed meanwhile, as a request names them."""
        if left is None or not self.supports_rtc():
            return {}
        rows = left.detach().float().cpu()
        rows = rows[0] if rows.ndim == 3 and len(rows) == 1 else rows
        if rows.ndim != 2 or count != 1:
            raise ValueError(
                "a remote policy continues the chunk of a single observation: expected "
                f"prev_chunk_left_over (T, D), got {tuple(left.shape)} for {count} observations"
            )
        real = real_steps(rows, None if self._last is None else self._last[0])
        steps = min(delay, real, self._longest_delay)
        return {"e0/prefix": rows[:steps].numpy()} if steps else {}

    def _request(self, batch: dict[str, Tensor], row: int) -> dict[str, Any]:
        """The request for an observation."""
        sent: dict[str, Any] = {
            name: _plain(batch[name][row], feature)
            for name, feature in (self.config.input_features or {}).items()
        }
        if self._takes_prompt:
            sent["prompt"] = read_tasks(batch)[row]
        # From torch's random numbers, so that a seed decides on actions as it does with a policy
        # in this process.
        sent["e0/seed"] = int(torch.randint(2**62, ()))
        return sent

    def forward(self, batch: dict[str, Tensor]) -> NoReturn:
        raise NotImplementedError("a remote policy cannot be trained: train the one it acts by")

    def get_optim_params(self) -> NoReturn:
        raise NotImplementedError("a remote policy cannot be trained: train the one it acts by")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path | None,
        *,
        config: RemoteConfig | None = None,
        **_: Any,
    ) -> RemotePolicy:
        """A policy from its directory, or from its configuration alone: there are no weights."""
        if config is None:
            if pretrained_name_or_path is None:
                raise ValueError("give a directory or a configuration")
            loaded = RemoteConfig.from_pretrained(pretrained_name_or_path)
            assert isinstance(loaded, RemoteConfig)
            config = loaded
        return cls(config).eval()


def _connect(config: RemoteConfig) -> PolicyClient:
    try:
        from e0_server.client import PolicyClient
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"a remote policy needs the package {error.name!r}: "
            "pip install 'lerobot_policy_e0[serve]'"
        ) from error
    return PolicyClient(config.server, token=os.environ.get(TOKEN) or None, timeout=config.timeout)


def _check(told: Any, config: RemoteConfig) -> None:
    robot = told.get("robot") if isinstance(told, dict) else None
    if robot != "native":
        raise RuntimeError(
            f"{config.server} serves clients of "
            f"{'another protocol' if robot is None else repr(robot)}; start it with "
            "`e0 serve CHECKPOINT --robot=native`"
        )
    if config.checkpoint not in (None, told["checkpoint"]):
        raise RuntimeError(
            f"{config.server} serves checkpoint {told['checkpoint'][:12]}, this policy was saved "
            f"for {str(config.checkpoint)[:12]}"
        )


def _kind(name: str, shape: list[int]) -> FeatureType:
    if len(shape) == 3:
        return FeatureType.VISUAL
    return FeatureType.ENV if name == OBS_ENV_STATE else FeatureType.STATE


def _plain(value: Tensor, feature: PolicyFeature) -> np.ndarray:
    """A picture (3, H, W) in [0, 1] as bytes (H, W, 3), which is what cameras give; a vector as it
    is, with an axis."""
    value = value.detach().float().cpu()
    if feature.type is FeatureType.VISUAL:
        return (value.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return value.reshape(feature.shape).numpy()
