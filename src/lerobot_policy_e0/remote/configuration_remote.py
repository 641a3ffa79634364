"""Settings of the policy type `remote`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from lerobot.configs import NormalizationMode, PreTrainedConfig


@PreTrainedConfig.register_subclass("remote")
@dataclass
class RemoteConfig(PreTrainedConfig):
    """A policy that acts by a server, `e0 serve CHECKPOINT --robot=native`.

    server: "ws://HOST:PORT". What it asks for as a token is read from E0_SERVER_TOKEN and never
    kept. timeout: seconds that a chunk may take, connecting included; after that the policy fails
    and the robot holds. n_action_steps: steps of a chunk that are executed, the checkpoint's own
    number if None. checkpoint: SHA-256 of what must be served; filled in when the policy is saved.
    action_feature_names: of what is served, if it knows them; LeRobot brings a robot's actions
    into their order.
    """

    server: str = "ws://127.0.0.1:8000"
    timeout: float = 5.0
    n_action_steps: int | None = None
    checkpoint: str | None = None
    action_feature_names: list[str] | None = None
    device: str | None = "cpu"
    push_to_hub: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.server.startswith(("ws://", "wss://")):
            raise ValueError(f"server must begin with ws:// or wss://, got {self.server!r}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be positive, in seconds, got {self.timeout}")
        if self.n_action_steps is not None and self.n_action_steps < 1:
            raise ValueError(f"n_action_steps must be at least 1, got {self.n_action_steps}")

    @property
    def normalization_mapping(self) -> dict[str, NormalizationMode]:
        """Nothing is normalized here: the server does it, by its checkpoint's statistics."""
        return {}

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> None:
        return None

    @property
    def reward_delta_indices(self) -> None:
        return None

    def validate_features(self) -> None:
        """They are the served checkpoint's; the server refuses others by name."""

    def get_optimizer_preset(self) -> NoReturn:
        raise NotImplementedError("a remote policy cannot be trained: train the one it acts by")

    def get_scheduler_preset(self) -> Any:
        return None
