"""The simulated arm stays where it is told to be, however the targets jump."""

import time

import numpy as np
import pytest
from lerobot_robot_franka.arm import Arm
from lerobot_robot_franka.drivers import FrankyArm
from lerobot_robot_franka.limits import FR3, Allowed
from simulated_arm import START_POSITION, simulated_arm

FPS, SECONDS, JUMP = 12, 3, 0.25  # a second, s, rad


@pytest.mark.parametrize("velocity_share", [0.3, 0.6])
def test_the_arm_does_not_swing(velocity_share: float) -> None:
    jumps = np.random.default_rng(0).uniform(-JUMP, JUMP, (FPS * SECONDS, 7))
    away = 0.0
    with simulated_arm() as (host, _):
        driver = FrankyArm(host, realtime=False)
        arm = Arm(
            driver, FR3, Allowed.of(FR3, 0.05, 2 * JUMP),
            rate=100.0, velocity_share=velocity_share, acceleration_share=0.8, limit=True,
        )  # fmt: skip
        arm.start()
        began = time.perf_counter()
        for number, jump in enumerate(jumps):
            arm.aim(np.array(START_POSITION) + jump)
            while time.perf_counter() < began + (number + 1) / FPS:
                away = max(away, float(np.abs(arm.state().positions - arm.told()).max()))
                time.sleep(0.01)
        arm.stop()
        driver.close()
    assert away < 0.15
