"""LeRobot plugin: `--env.type=adroit`."""

from lerobot_env_adroit.config import AdroitEnvConfig

__all__ = ["AdroitEnvConfig"]
