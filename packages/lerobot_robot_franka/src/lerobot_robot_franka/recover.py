"""Clear what stopped an arm, once you have seen why it stopped; nothing moves.

python -m lerobot_robot_franka.recover 172.16.0.2
"""

from __future__ import annotations

import argparse

from lerobot_robot_franka.drivers import FrankyArm
from lerobot_robot_franka.errors import FrankaError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("host", help="the arm's address")
    arguments = parser.parse_args()
    try:
        recovered = FrankyArm(arguments.host, realtime=False).recover()
    except FrankaError as error:
        raise SystemExit(str(error)) from None
    if not recovered:
        raise SystemExit("the arm did not recover: look at Desk")
    print("the arm can be controlled again")


if __name__ == "__main__":
    main()
