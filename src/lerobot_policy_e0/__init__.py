"""E0 as a LeRobot plugin: `--policy.type=e0`, `--policy.type=remote`, `--env.type=maniskill`.

LeRobot imports every installed distribution called `lerobot_policy_*`; importing this package
registers them. It only adapts: the method lives in `e0`, the simulator in `e0_maniskill`. LeRobot's
`--env.type=libero` finds its files by `e0_libero`; `--env.type=libero_camera` is the same with an
agent view that can be moved.
"""

from e0_libero.assets import wire_what_is_installed
from lerobot_policy_e0.configuration_e0 import E0Config
from lerobot_policy_e0.environment import ManiSkillEnvConfig
from lerobot_policy_e0.libero_environment import LiberoCameraEnvConfig
from lerobot_policy_e0.modeling_e0 import E0Policy
from lerobot_policy_e0.processor_e0 import make_e0_pre_post_processors
from lerobot_policy_e0.remote.configuration_remote import RemoteConfig

__all__ = [
    "E0Config",
    "E0Policy",
    "LiberoCameraEnvConfig",
    "ManiSkillEnvConfig",
    "RemoteConfig",
    "make_e0_pre_post_processors",
]

wire_what_is_installed()
