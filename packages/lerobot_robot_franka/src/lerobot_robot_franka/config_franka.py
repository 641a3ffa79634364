"""Settings of `--robot.type=franka`."""

from dataclasses import dataclass, field

from lerobot.cameras.configs import CameraConfig
from lerobot.robots.config import RobotConfig

from lerobot_robot_franka.limits import ARMS, JOINTS

BOUNDS = {
    "control_rate": (50.0, 1000.0),
    "velocity_share": (0.01, 1.0),
    "acceleration_share": (0.01, 1.0),
    "margin": (0.0, 0.5),
    "max_step": (0.01, 1.0),
    "gripper_speed": (0.01, 0.2),
    "gripper_force": (1.0, 70.0),
    "gripper_dead_band": (0.0, 0.9),
}


@RobotConfig.register_subclass("franka")
@dataclass(kw_only=True)
class FrankaConfig(RobotConfig):
    """A Franka arm with its hand.

    host: the arm's address. arm: "fr3" or "panda", whose limits hold. gripper: whether there is a
    Franka Hand. realtime: whether this machine's kernel must be a real-time one; false is for
    simulators.

    velocities, pose, wrench: what is observed beside the positions. `joint_1.vel` to `joint_7.vel`,
    rad/s. The hand's `ee.x.pos` to `ee.z.pos` in the frame of the arm's base, m, and there the
    directions of its x- and y-axis, `ee.xx.pos` to `ee.yz.pos`. `wrench.fx.vel` to `wrench.tz.vel`,
    N and Nm, no velocities (see `observations`), in the hand's frame, positive where the arm
    pushes.

    start_position: joints (rad) to go to slowly when connecting; where the arm is, if None.
    margin: rad at both ends of each joint's range that are never used. velocity_share,
    acceleration_share: of the arm's limits that motions may use. max_step: rad that a joint's
    action may lie from where it is told to be. unsafe_actions: "refuse", or "limit" to the next
    safe one.

    gripper_speed in m/s, gripper_force in N, gripper_dead_band of the opening, 0 to 1.
    """

    host: str
    arm: str = "fr3"
    gripper: bool = True
    realtime: bool = True
    velocities: bool = False
    pose: bool = False
    wrench: bool = False
    cameras: dict[str, CameraConfig] = field(default_factory=dict)
    start_position: list[float] | None = None
    control_rate: float = 100.0
    margin: float = 0.05
    velocity_share: float = 0.3
    acceleration_share: float = 0.8
    max_step: float = 0.3
    unsafe_actions: str = "refuse"
    gripper_speed: float = 0.1
    gripper_force: float = 20.0
    gripper_dead_band: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.host:
            raise ValueError("give the arm's address: --robot.host=172.16.0.2")
        if self.arm not in ARMS:
            raise ValueError(f"unknown arm {self.arm!r}; known: {', '.join(ARMS)}")
        if self.unsafe_actions not in ("refuse", "limit"):
            raise ValueError(
                f"unsafe_actions must be 'refuse' or 'limit', got {self.unsafe_actions!r}"
            )
        for name, (low, high) in BOUNDS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high}, got {getattr(self, name)}")
        if self.start_position is not None and len(self.start_position) != JOINTS:
            raise ValueError(
                f"start_position must be {JOINTS} joints, got {len(self.start_position)}"
            )
