"""What stands before the simulated arm: a cube on the ground, a camera, and one on the hand.

Frame of the arm's base: x away from it, y to its left, z up; metres.
"""

# mujoco does not tell pyright what it holds.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import NamedTuple

import mujoco
import numpy as np
from franky_sim.mujoco_simulator import MujocoSimulator

from lerobot_robot_franka.drivers import MAXIMUM_WIDTH

HOME = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)
"""Joints (7,), rad: the hand points down, half a metre above the ground."""
HALF = 0.02  # metres: half the side of the cube
NEAR, FAR, ASIDE = 0.40, 0.55, 0.15  # where cubes are placed: x from NEAR to FAR, |y| to ASIDE
TURN = 0.4  # rad: how far they are turned, either way
LIFTED = 0.1  # metres above the ground that the middle of a lifted cube is
TIPS = 0.1034  # metres from the hand's flange to the point between the finger tips
CAMERAS, SIZE = ("front", "wrist"), 96  # pixels of a side
ARM = "robot0_"  # before every name of the arm


class Place(NamedTuple):
    """Where the middle of the cube or the point between the finger tips is, metres, and how far it
    is turned about z, rad."""

    x: float
    y: float
    z: float
    turn: float


def make_simulator() -> MujocoSimulator:
    """The arm at HOME with an open hand, the cube and the cameras; not started."""
    simulator = MujocoSimulator()
    simulator.add_robot(initial_q=HOME, initial_hand_width=MAXIMUM_WIDTH)
    world = simulator.worldbody
    cube = ET.SubElement(world, "body", name="cube", pos=f"0.5 0 {HALF}")
    ET.SubElement(cube, "freejoint", name="cube")
    ET.SubElement(
        cube, "geom", type="box", size=f"{HALF} {HALF} {HALF}", rgba="0.8 0.1 0.1 1", mass="0.05",
        friction="1.5 0.01 0.001", condim="4",
    )  # fmt: skip
    ET.SubElement(
        world, "camera", name="front", pos="1.15 0 0.55", xyaxes="0 1 0 -0.6 0 0.8", fovy="50"
    )
    (hand,) = (body for body in world.iter("body") if body.get("name") == f"{ARM}hand")
    # Beside the hand, looking along the fingers.
    ET.SubElement(hand, "camera", name="wrist", pos="0.07 0 0", xyaxes="0 1 0 1 0 0", fovy="75")
    ET.SubElement(hand, "site", name="tips", pos=f"0 0 {TIPS}")
    return simulator


def random_place(seed: int) -> Place:
    """Where the cube lies in an episode."""
    random = np.random.default_rng(seed)
    return Place(
        float(random.uniform(NEAR, FAR)),
        float(random.uniform(-ASIDE, ASIDE)),
        HALF,
        float(random.uniform(-TURN, TURN)),
    )


def put_cube(model: mujoco.MjModel, data: mujoco.MjData, place: Place) -> None:
    """Put the cube somewhere, at rest."""
    joint = model.joint("cube")
    half = place.turn / 2
    data.qpos[joint.qposadr[0] :][:7] = (*place[:3], np.cos(half), 0.0, 0.0, np.sin(half))
    data.qvel[joint.dofadr[0] :][:6] = 0.0


def cube_place(data: mujoco.MjData) -> Place:
    """Where the cube is; turned by what is least of the four equal ways."""
    body = data.body("cube")
    turn = _turn(body.xmat)
    quarter = np.pi / 2
    return _place(body.xpos, turn - quarter * round(turn / quarter))


def hand_place(data: mujoco.MjData) -> Place:
    """Where the point between the finger tips is; not turned where the fingers open along y."""
    tips = data.site("tips")
    return _place(tips.xpos, _turn(tips.xmat))


def _place(position: np.ndarray, turn: float) -> Place:
    x, y, z = (float(value) for value in position)
    return Place(x, y, z, turn)


def _turn(rotation: np.ndarray) -> float:
    """How far the x-axis is turned about z from the base's, rad."""
    x, y, _ = rotation.reshape(3, 3)[:, 0]
    return float(np.arctan2(y, x))
