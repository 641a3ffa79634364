"""A simulated FR3 with a hand that speaks Franka's own protocol, as a program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

START_POSITION = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)


@contextmanager
def simulated_arm() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address and the process of a simulated arm."""
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def main() -> None:
    """Serve one, and print its address."""
    from franky_sim import SimulationServer
    from franky_sim.mujoco_simulator import MujocoSimulator

    simulator = MujocoSimulator()
    simulator.add_robot(initial_q=START_POSITION)
    with simulator, SimulationServer(simulator) as server:
        print(server.robot_servers[0].hostname, flush=True)
        server.run_forever()


if __name__ == "__main__":
    main()
