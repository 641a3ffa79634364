"""An arm with reflexes, as franka-sim has them: what stops it is told, and it recovers on request.

Its thresholds are a simulator's: this tests our ways out of errors, and says nothing about an arm.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lerobot_robot_franka.arm import Arm
from lerobot_robot_franka.drivers import FrankyArm
from lerobot_robot_franka.errors import ControlLostError
from lerobot_robot_franka.limits import FR3, JOINTS, Allowed, ArmLimits

PEER = Path(__file__).parents[2] / ".peers" / "franka-sim" / "bin"
TOO_FAST = replace(FR3, velocity=(6.0,) * JOINTS, acceleration=(40.0,) * JOINTS)
pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not (PEER / "run-franka-sim-server").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", PEER.parent], check=True)
            install = [PEER / "python", "-m", "pip", "install", "--quiet", "franka-sim==1.1.7"]
            subprocess.run(install, check=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no registry: {error}")
    command = [PEER / "run-franka-sim-server", "--no-gripper", "--physics", "mujoco"]
    environment = os.environ | {"FR3_MJCF": str(model(tmp_path_factory.mktemp("model")))}
    command += ["--enforce-motion-limits", "--enforce-comm-constraints"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            subprocess.run([PEER / "franka-sim-check"], check=True, capture_output=True)
            yield "127.0.0.1"
        finally:
            server.kill()


def model(directory: Path) -> Path:
    """franky-sim's model of the arm, as franka-sim would fetch its own from elsewhere."""
    import franky_sim

    assets = Path(franky_sim.__file__).parent / "assets"
    text = re.sub(
        r'meshdir="[^"]*"', f'meshdir="{assets / "meshes"}"', (assets / "fr3.xml").read_text()
    )
    path = directory / "fr3.xml"
    path.write_text(text)
    return path


@contextmanager
def controlled(
    host: str,
    limits: ArmLimits = FR3,
    max_step: float = 0.5,
    shares: tuple[float, float] = (0.3, 0.8),
) -> Iterator[Arm]:
    """An arm under control; afterwards others may have it. shares: of the limits of velocity and
    acceleration that it uses."""
    driver, allowed = FrankyArm(host, realtime=False), Allowed.of(FR3, 0.05, max_step)
    velocity, acceleration = shares
    arm = Arm(
        driver, limits, allowed, rate=100.0, limit=False, velocity_share=velocity,
        acceleration_share=acceleration,
    )  # fmt: skip
    try:
        arm.start()
        yield arm
        arm.stop()
    finally:
        driver.close()


def test_within_our_limits_there_is_no_reflex(host: str) -> None:
    with controlled(host) as arm:
        here = arm.state().positions
        for far in (0.4, 0.0, 0.4):  # as far as a policy may jump
            arm.aim(here + far * np.array([1, 0, 0, 0, 0, 0, 1]))
            time.sleep(1.0)
        assert arm.state().positions[0] == pytest.approx(here[0] + 0.4, abs=0.05)


def test_a_reflex_is_told_and_recovered_from_on_request(host: str) -> None:
    with controlled(host, TOO_FAST, max_step=9.0, shares=(1.0, 1.0)) as arm:
        here = arm.state().positions
        arm.aim(here + np.array([2.0, 0, 0, 0, 0, 0, 0]))
        with pytest.raises(ControlLostError, match=r"aborted by reflex.*joint_velocity_violation"):
            for _ in range(100):
                time.sleep(0.05)
                arm.state()
        assert not arm.running
        with pytest.raises(ControlLostError, match="reflex"):
            arm.aim(here)
        arm.recover()
        stopped = arm.state().positions
        time.sleep(0.5)
        assert arm.running
        np.testing.assert_allclose(arm.state().positions, stopped, atol=0.02)


def test_an_arm_that_presses_against_itself_stops_and_recovers(host: str) -> None:
    with controlled(host) as arm:
        with pytest.raises(ControlLostError, match=r"aborted by reflex.*tau_J_range_violation"):
            for folded in ([0, -1.6, 0, -2.95, 0, 1.0, 0.8], [0, -0.8, 0, -2.95, 0, 0.7, 0.8]):
                arm.go_slowly(np.array(folded))
                time.sleep(0.5)
                arm.state()
        arm.recover()
        arm.go_slowly(np.array([0, -0.8, 0, -2.4, 0, 1.6, 0.8]))


@pytest.fixture
def program(host: str) -> Iterator[subprocess.Popen[str]]:
    """Moves the arm to and fro, see `moving_arm`."""
    command = [sys.executable, Path(__file__).with_name("moving_arm.py"), host]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as moving:
        assert moving.stdout is not None and moving.stdout.readline() == "moving\n"
        time.sleep(1)
        yield moving
        moving.kill()


def test_a_program_that_stalls_loses_the_arm_and_recovers_on_request(
    program: subprocess.Popen[str],
) -> None:
    assert program.stdin is not None and program.stdout is not None
    os.kill(program.pid, signal.SIGSTOP)
    time.sleep(0.1)
    os.kill(program.pid, signal.SIGCONT)
    assert "communication_constraints_violation" in program.stdout.readline()
    program.stdin.write("recover\n")
    program.stdin.flush()
    assert program.stdout.readline() == "moving\n"


def test_the_arm_of_a_program_that_was_killed_is_still_and_another_may_have_it(
    host: str, program: subprocess.Popen[str]
) -> None:
    program.kill()
    program.wait()
    driver = FrankyArm(host, realtime=False)
    time.sleep(0.3)
    places = []
    for _ in range(10):
        places.append(driver.state().positions)
        time.sleep(0.05)
    assert np.ptp(places, axis=0).max() < 2e-3
    driver.close()
    with controlled(host) as arm:
        time.sleep(0.5)
        assert arm.running
