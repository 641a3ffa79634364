"""An arm with reflexes, as franka-sim has them: what stops it is told, and it recovers on request.

Its thresholds are a simulator's: this tests our ways out of errors, and says nothing about an arm.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lerobot_robot_franka.arm import Arm
from lerobot_robot_franka.drivers import FrankyArm
from lerobot_robot_franka.errors import ControlLostError
from lerobot_robot_franka.limits import FR3, JOINTS, Allowed, ArmLimits

PEER = Path(__file__).parents[2] / ".peers" / "franka-sim" / "bin"
NO_LIMITS = replace(FR3, velocity=(1e6,) * JOINTS, acceleration=(1e9,) * JOINTS)
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
    with subprocess.Popen(
        [*command, "--enforce-motion-limits"], env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:  # fmt: skip
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


def started(host: str, limits: ArmLimits, max_step: float, **shares: float) -> Arm:
    driver, allowed = FrankyArm(host, realtime=False), Allowed.of(FR3, 0.05, max_step)
    arm = Arm(driver, limits, allowed, rate=100.0, limit=False, **shares)
    arm.start()
    return arm


def test_within_our_limits_there_is_no_reflex(host: str) -> None:
    arm = started(host, FR3, max_step=0.5, velocity_share=0.3, acceleration_share=0.8)
    here = arm.state().positions
    for far in (0.4, 0.0, 0.4):  # as far as a policy may jump
        arm.aim(here + far * np.array([1, 0, 0, 0, 0, 0, 1]))
        time.sleep(1.0)
    assert arm.state().positions[0] == pytest.approx(here[0] + 0.4, abs=0.05)
    arm.stop()


def test_a_reflex_is_told_and_recovered_from_on_request(host: str) -> None:
    arm = started(host, NO_LIMITS, max_step=9.0, velocity_share=1.0, acceleration_share=1.0)
    here = arm.state().positions
    arm.aim(here + np.array([0, 0, 0, 0, 0, 0.8, 0]))
    with pytest.raises(ControlLostError, match=r"aborted by reflex.*violation"):
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
    arm.stop()
