"""Settings of `--teleop.type=franka_guiding`."""

from dataclasses import dataclass

from lerobot.teleoperators import TeleoperatorConfig


@TeleoperatorConfig.register_subclass("franka_guiding")
@dataclass(kw_only=True)
class FrankaGuidingConfig(TeleoperatorConfig):
    """A person moves the Franka arm that is connected, by hand."""
