"""The policy on one machine, the arm on another: the arm rests while the network stalls, and when
the server is gone. (Of a program that is killed: `test_reflexes`.)"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from simulated_arm import simulated_arm, speed
from test_rollout import RTC, near_start

from e0_bench.remote import RemoteCommand, run_remote

BIN = Path(sys.executable).parent
STILL, MOVES = 0.01, 0.03  # rad/s


@contextmanager
def serving(checkpoint: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`e0 serve` as a program, once it listens, and its address."""
    command = [BIN / "e0", "serve", checkpoint, "--port", "0", "--robot", "native"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            line = next((line for line in server.stderr if "listening" in line), None)
            assert line is not None, "the server did not start"
            port = re.search(r'"port": (\d+)', line)
            assert port is not None, line
            yield f"ws://127.0.0.1:{port[1]}", server
        finally:
            server.kill()


@contextmanager
def acting(policy: Path, host: str, log: Path) -> Iterator[subprocess.Popen[str]]:
    """`lerobot-rollout` of a policy on an arm, until it is ended."""
    command = [
        BIN / "lerobot-rollout", f"--policy.path={policy}", "--robot.type=franka",
        f"--robot.host={host}", "--robot.realtime=false", "--strategy.type=base", "--duration=300",
        "--fps=20", "--task=hold", "--inference.type=rtc", *RTC,
    ]  # fmt: skip
    with log.open("w") as lines, subprocess.Popen(command, stdout=lines, stderr=lines) as program:
        try:
            yield program
        finally:
            program.kill()


def wait(happens: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.02)


def fastest(arm: subprocess.Popen[str], seconds: float) -> float:
    """Of the joints' speeds in so many seconds."""
    speeds, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        speeds.append(speed(arm))
        time.sleep(0.02)
    return max(speeds)


@pytest.mark.slow
def test_the_arm_rests_while_the_network_stalls_and_when_the_server_is_gone(
    tmp_path: Path,
) -> None:
    checkpoint, log = near_start(tmp_path / "policy", 8), tmp_path / "log"
    with serving(checkpoint) as (url, server), simulated_arm() as (host, arm):
        run_remote(RemoteCommand(url, tmp_path / "remote", timeout=2.0))
        with acting(tmp_path / "remote", host, log) as program:
            wait(lambda: speed(arm) > MOVES, 60)
            for stall in (0.1, 1.0, 10.0):
                os.kill(server.pid, signal.SIGSTOP)
                time.sleep(stall / 2)
                most = fastest(arm, stall / 2)
                os.kill(server.pid, signal.SIGCONT)
                assert stall < 10 or most < STILL
                wait(lambda: speed(arm) > MOVES, 10)
            server.kill()
            time.sleep(3)
            assert fastest(arm, 1) < STILL
            program.wait(60)  # LeRobot gives up after ten errors
            assert "cannot be reached" in log.read_text()
            assert fastest(arm, 1) < STILL
