"""A simulated FR3 with a hand that speaks Franka's own protocol, as a program."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

START_POSITION = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)


@contextmanager
def simulated_arm() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address and the process of a simulated arm."""
    command = [sys.executable, __file__]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def push(process: subprocess.Popen[str], x: float, y: float, z: float) -> None:
    """Pull at the arm's hand from now on, as a person does; N, along the axes of its base."""
    assert process.stdin is not None
    process.stdin.write(f"{x} {y} {z}\n")
    process.stdin.flush()


def speed(process: subprocess.Popen[str]) -> float:
    """Of the fastest joint now, rad/s, as the simulation knows it."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return max(abs(velocity) for velocity in json.loads(process.stdout.readline()))


def main() -> None:
    """Serve one, print its address, and pull at its hand, or tell its joints' velocities, as
    standard input says."""
    from franky_sim import SimulationServer
    from franky_sim.mujoco_simulator import MujocoSimulator

    simulator = MujocoSimulator()
    simulator.add_robot(initial_q=START_POSITION)
    with simulator, SimulationServer(simulator) as server:
        print(server.robot_servers[0].hostname, flush=True)
        threading.Thread(target=_obey, args=(simulator,), daemon=True).start()
        server.run_forever()


def _obey(simulator: object) -> None:
    model, data = simulator.model, simulator.data  # pyright: ignore[reportAttributeAccessIssue]
    names = [model.body(number).name for number in range(model.nbody)]
    (hand,) = (number for number, name in enumerate(names) if name.endswith("hand"))
    for line in sys.stdin:
        if line.strip():
            data.xfrc_applied[hand, :3] = [float(number) for number in line.split()]
        else:
            print(json.dumps(list(data.qvel[:7])), flush=True)


if __name__ == "__main__":
    main()
