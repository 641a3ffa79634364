"""The demo's recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from e0.policy import ObjectiveName

EVALUATION_SEED = 700_000
TRAINING_SEED = 100_000


@dataclass(frozen=True)
class DemoSettings:
    """The recipe. Episodes are per task; the seeds of demonstrations and evaluation are disjoint.

    demonstrations: expert episodes, one number for every task or one for each. action_noise:
    disturbance while collecting, in action units. hold_steps: steps recorded after success.
    vector_noise: noise on proprioception in training (see `lerobot_policy_e0.E0Config`).
    blackout_episodes: evaluation episodes repeated with black images. objective: what the policy
    learns (`e0.objectives`).
    """

    output: Path = Path("outputs/demo")
    tasks: tuple[str, ...] = ("PushCube-v1", "PickCube-v1")
    demonstrations: tuple[int, ...] = (250, 500)
    action_noise: float = 0.1
    hold_steps: int = 4
    training_steps: int = 2200
    batch_size: int = 64
    noise_draws: int = 2
    objective: Annotated[ObjectiveName, tyro.conf.arg(name="policy.objective")] = "e0"
    learning_rate: float = 2e-3
    vector_noise: float = 0.08
    n_action_steps: int = 2
    evaluation_episodes: int = 50
    blackout_episodes: int = 20
    denoising_steps: int = 4
    workers: int = 2

    @property
    def decoding(self) -> str:
        """How the policy is decoded: its actions are movements, which E0 decodes best so."""
        return "adaptive" if self.objective == "e0" else "fixed"

    def environment(self, state_only: bool) -> dict[str, Any]:
        """Arguments of the environments, in collecting and in evaluation alike."""
        return {"proprioception": "compact", "state_only": state_only}
