"""Settings of `{type: franka_picker}`, a device for `--teleop.device`."""

from dataclasses import dataclass

from lerobot.teleoperators import TeleoperatorConfig


@TeleoperatorConfig.register_subclass("franka_picker")
@dataclass(kw_only=True)
class FrankaPickerConfig(TeleoperatorConfig):
    """state_port: where the simulation tells what is to be seen, see `world.Watcher`."""

    state_port: int
