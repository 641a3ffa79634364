"""A device that says the same motion of the hand all the time, in place of a person's."""

from dataclasses import dataclass, field
from typing import Any

from lerobot.teleoperators import Teleoperator, TeleoperatorConfig

STILL = {"delta_x": 0.0, "delta_y": 0.0, "delta_z": 0.0, "gripper": 1}


@TeleoperatorConfig.register_subclass("scripted")
@dataclass(kw_only=True)
class ScriptedConfig(TeleoperatorConfig):
    """says: the actions, all of them."""

    says: dict[str, float] = field(default_factory=lambda: dict(STILL))


class Scripted(Teleoperator):
    """Says what its settings say, which tests change."""

    config_class = ScriptedConfig
    name = "scripted"
    is_connected = False
    is_calibrated = True
    action_features = dict.fromkeys(STILL, float)
    feedback_features: dict[str, type] = {}  # noqa: RUF012

    def __init__(self, config: ScriptedConfig) -> None:
        super().__init__(config)
        self.says = config.says

    def connect(self, calibrate: bool = True) -> None:
        self.is_connected = True

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def get_action(self) -> dict[str, Any]:
        return dict(self.says)

    def send_feedback(self, feedback: dict[str, Any]) -> None: ...

    def disconnect(self) -> None:
        self.is_connected = False
