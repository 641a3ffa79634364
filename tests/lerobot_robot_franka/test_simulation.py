"""The simulated scene: what is seen of it, when an episode is over, and its teacher."""

import json
from pathlib import Path

import mujoco
import numpy as np
import pytest
from lerobot_robot_franka.simulation.franka_picker import ABOVE, CLOSE, HIGH, OPEN, STAY, motion
from lerobot_robot_franka.simulation.scene import (
    ASIDE,
    FAR,
    HALF,
    HOME,
    NEAR,
    Place,
    cube_place,
    hand_place,
    make_simulator,
    put_cube,
    random_place,
)
from lerobot_robot_franka.simulation.world import HELD_SECONDS, HOME_SECONDS, Supervisor

from scripts import load_script

CUBE = Place(0.5, 0.1, HALF, 0.2)


def test_the_teacher_goes_over_the_cube_and_down_and_closes_and_lifts() -> None:
    width, shift = 0.08, ("delta_x", "delta_y", "delta_z")
    beside = motion(CUBE, Place(0.4, 0.1, 0.3, 0.0), width)
    assert beside["delta_x"] == 1 and beside["delta_z"] == -1 and beside["gripper"] == OPEN
    assert beside["delta_wz"] > 0, "it turns as the cube is turned"
    low = motion(CUBE, Place(0.4, 0.1, HALF, 0.2), width)
    assert low["delta_z"] > 0, "it would push the cube away"
    over = motion(CUBE, Place(0.5, 0.1, CUBE.z + ABOVE, 0.2), width)
    assert over["delta_z"] < 0 and over["gripper"] == STAY
    around = motion(CUBE, Place(0.5, 0.1, HALF, 0.2), width)
    assert [around[name] for name in shift] == [0, 0, 0] and around["gripper"] == CLOSE
    held = motion(CUBE, Place(0.5, 0.1, HALF, 0.2), 2 * HALF)
    assert held["delta_z"] == 1 and held["gripper"] == STAY
    high = Place(0.5, 0.1, HIGH, 0.2)
    assert motion(high, high, 2 * HALF)["delta_z"] == pytest.approx(0)


def test_cubes_lie_within_reach_and_where_the_seed_says() -> None:
    places = [random_place(seed) for seed in range(50)]
    assert places[7] == random_place(7) != random_place(8)
    assert all(NEAR <= p.x <= FAR and abs(p.y) <= ASIDE and p.z == HALF for p in places)


def test_an_episode_is_over_when_the_arm_has_come_home(tmp_path: Path) -> None:
    log = tmp_path / "outcomes.jsonl"
    with make_simulator() as simulator:
        simulator.start()
        model, data = simulator.model, simulator.data
        assert model is not None and data is not None
        supervisor = Supervisor(simulator, 5, log)
        supervisor.begin()
        mujoco.mj_forward(model, data)
        assert cube_place(data) == pytest.approx(random_place(5), abs=1e-3)
        assert hand_place(data) == pytest.approx((0.307, 0, 0.487, 0), abs=5e-3)

        def look(seconds: float) -> None:
            for _ in range(round(seconds / 0.02)):
                supervisor.look(0.02)

        look(2 * HOME_SECONDS)
        assert not log.exists(), "nothing has happened yet"
        data.qpos[:7] = np.array(HOME) + 0.3
        put_cube(model, data, Place(0.5, 0, 0.3, 0))
        mujoco.mj_forward(model, data)
        look(HELD_SECONDS / 2)
        assert not supervisor.lifted, "it was thrown, perhaps"
        look(HELD_SECONDS)
        data.qpos[:7] = HOME
        mujoco.mj_forward(model, data)
        look(HOME_SECONDS + 0.1)
        mujoco.mj_forward(model, data)
        (line,) = log.read_text().splitlines()
        assert json.loads(line)["seed"] == 5 and json.loads(line)["lifted"]
        assert supervisor.told()["seed"] == 6 and not supervisor.told()["lifted"]
        assert cube_place(data) == pytest.approx(random_place(6), abs=1e-3)


@pytest.mark.slow
def test_the_teacher_demonstrates_through_lerobot(tmp_path: Path) -> None:
    told = load_script("franka_sim").demonstrate(tmp_path, 1)
    assert told["episodes"] == 1 and told["frames"] > 30
