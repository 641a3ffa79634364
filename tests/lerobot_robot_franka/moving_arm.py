"""A program that moves an arm to and fro, tells what stops it, and recovers when it is told to.

python moving_arm.py HOST
"""

import sys
import time

import numpy as np
from lerobot_robot_franka.arm import Arm
from lerobot_robot_franka.drivers import FrankyArm
from lerobot_robot_franka.errors import ControlLostError
from lerobot_robot_franka.limits import FR3, Allowed


def main() -> None:
    """Print "moving" while it moves, the reason when it is stopped."""
    driver, allowed = FrankyArm(sys.argv[1], realtime=False), Allowed.of(FR3, 0.05, 0.5)
    arm = Arm(
        driver, FR3, allowed, rate=100.0, velocity_share=0.3, acceleration_share=0.8, limit=False
    )
    arm.start()
    while True:
        here, began = arm.state().positions, time.perf_counter()
        print("moving", flush=True)
        try:
            while True:
                away = 0.3 * np.sin(2 * (time.perf_counter() - began))
                arm.aim(here + away * np.eye(7)[6])
                time.sleep(0.05)
        except ControlLostError as error:
            print(" ".join(str(error).split()), flush=True)
        sys.stdin.readline()
        arm.recover()


if __name__ == "__main__":
    main()
