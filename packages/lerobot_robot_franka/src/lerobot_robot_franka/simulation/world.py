"""A program that simulates the arm, its cube and its cameras, and resets them by itself.

    python -m lerobot_robot_franka.simulation.world --first-seed 1000 --log outcomes.jsonl

It prints a line of JSON: the arm's address (`host`), and the ports of the pictures (`pictures`,
LeRobot's ZMQ cameras) and of the state (`state`, see `Watcher`). Whenever the arm has come home
with an open hand, the episode is over: its outcome goes into the log as a line of JSON, and the
cube is put where the next seed says. Loopback only.
"""

# mujoco does not tell pyright what it holds.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import zmq

from lerobot_robot_franka.simulation.scene import (
    CAMERAS,
    HOME,
    LIFTED,
    SIZE,
    cube_place,
    hand_place,
    make_simulator,
    put_cube,
    random_place,
)

TICK = 0.001  # seconds of a step of physics
LOOK_TICKS = 20  # between looks at what happens
HOME_SECONDS = 0.3  # at home with an open hand, until the scene is reset
NEAR_HOME = 0.05  # rad
OPEN = 0.06  # metres between the fingers
HELD_SECONDS = 0.3  # in the air, for a pick
PICTURE_RATE = 12.0  # pictures a second


@dataclass
class Supervisor:
    """Looks at the scene in steps of `LOOK_TICKS`, resets it, and tells outcomes.

    log: where a line for each episode goes: seed, lifted (whether the cube was held in the air),
    seconds.
    """

    simulator: Any
    seed: int
    log: Path
    left_home: bool = False
    lifted: bool = False
    in_air: float = 0.0
    at_home: float = 0.0
    seconds: float = 0.0

    def begin(self) -> None:
        """Put the cube in its place."""
        self.left_home = self.lifted = False
        self.in_air = self.at_home = self.seconds = 0.0
        put_cube(self.simulator.model, self.simulator.data, random_place(self.seed))

    def look(self, passed: float) -> None:
        """Take note of what has happened in so many seconds."""
        state = self.simulator.robots[0].inner_state
        self.seconds += passed
        self.in_air = self.in_air + passed if cube_place(self.simulator.data).z > LIFTED else 0.0
        self.lifted |= self.in_air >= HELD_SECONDS
        home = np.abs(np.array(state.q) - HOME).max() < NEAR_HOME
        open_hand = self.simulator.robots[0].hand_width > OPEN
        self.left_home |= not home
        self.at_home = self.at_home + passed if home and open_hand else 0.0
        if self.left_home and self.at_home >= HOME_SECONDS:
            self.end()

    def end(self) -> None:
        """Log the outcome and go on to the next seed."""
        outcome = {"seed": self.seed, "lifted": self.lifted, "seconds": round(self.seconds, 2)}
        with self.log.open("a") as lines:
            lines.write(json.dumps(outcome) + "\n")
        self.seed += 1
        self.begin()

    def told(self) -> dict[str, Any]:
        """What `Watcher` gives."""
        return {
            "seed": self.seed,
            "cube": cube_place(self.simulator.data),
            "hand": hand_place(self.simulator.data),
            "width": self.simulator.robots[0].hand_width,
            "lifted": self.lifted,
        }


class Watcher:
    """The scene as it is, asked from another process: what a person would see who stands beside
    the arm. Neither the robot nor a policy has it."""

    def __init__(self, port: int) -> None:
        self._socket = zmq.Context.instance().socket(zmq.REQ)
        self._socket.setsockopt(zmq.RCVTIMEO, 5000)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(f"tcp://127.0.0.1:{port}")

    def look(self) -> dict[str, Any]:
        """seed of the running episode; cube and hand: x, y, z, turn, see `scene.Place`; width
        between the fingers, metres; lifted: whether the cube was held in the air. Raises zmq.Again
        where the simulation is gone."""
        self._socket.send(b"")
        return json.loads(self._socket.recv())


def show(positions: Any, port: Synchronized[int]) -> None:
    """In a process of its own, as long as its parent lives: render the scene from shared positions
    of all joints and publish it; port is where, once there is something to see."""
    import mujoco
    from lerobot.cameras.zmq.image_server import encode_image

    os.nice(20)  # a late picture disturbs less than a late torque
    model = mujoco.MjModel.from_xml_string(ElementTree.tostring(make_simulator().scene, "unicode"))
    model.vis.quality.shadowsize = model.vis.quality.offsamples = 0  # ten times faster on a CPU
    data = mujoco.MjData(model)
    parent = os.getppid()
    socket = zmq.Context.instance().socket(zmq.PUB)
    socket.setsockopt(zmq.SNDHWM, 2)
    bound = socket.bind_to_random_port("tcp://127.0.0.1")
    with mujoco.Renderer(model, SIZE, SIZE) as renderer:
        while os.getppid() == parent:
            began = time.perf_counter()
            with positions.get_lock():
                data.qpos[:] = positions.get_obj()
            mujoco.mj_kinematics(model, data)
            mujoco.mj_camlight(model, data)
            pictures = {}
            for camera in CAMERAS:
                renderer.update_scene(data, camera)
                pictures[camera] = encode_image(renderer.render(), quality=95)
            now = time.time()
            message = {"timestamps": dict.fromkeys(CAMERAS, now), "images": pictures}
            socket.send_string(json.dumps(message))
            port.value = bound
            time.sleep(max(0.0, began + 1 / PICTURE_RATE - time.perf_counter()))


def run(first_seed: int, log: Path) -> None:
    """Simulate until this process is ended."""
    from franky_sim import SimulationServer

    simulator = make_simulator()
    os.environ["MUJOCO_GL"] = "egl"  # for the process that renders: read when mujoco is imported
    context = multiprocessing.get_context("spawn")
    with simulator, SimulationServer(simulator) as server:
        assert simulator.data is not None
        supervisor = Supervisor(simulator, first_seed, log)
        supervisor.begin()
        positions = context.Array("d", list(simulator.data.qpos))
        pictures = context.Value("i", 0)
        looks = context.Process(target=show, args=(positions, pictures), daemon=True)
        looks.start()
        while not pictures.value:
            if not looks.is_alive():
                raise RuntimeError("the cameras could not be started: see above")
            time.sleep(0.05)
        socket = zmq.Context.instance().socket(zmq.REP)
        state = socket.bind_to_random_port("tcp://127.0.0.1")
        host = server.robot_servers[0].hostname
        print(json.dumps({"host": host, "pictures": pictures.value, "state": state}), flush=True)
        tick = 0
        while True:
            server.run_once()
            tick += 1
            if tick % LOOK_TICKS == 0:
                supervisor.look(LOOK_TICKS * TICK)
                with positions.get_lock():
                    positions.get_obj()[:] = list(simulator.data.qpos)
                if socket.poll(0):
                    socket.recv()
                    socket.send_string(json.dumps(supervisor.told()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--log", type=Path, required=True)
    arguments = parser.parse_args()
    run(arguments.first_seed, arguments.log)


if __name__ == "__main__":
    main()
