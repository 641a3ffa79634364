"""`e0 serve` and `e0 remote` as commands."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest

from e0_bench.serve import ServeCommand, run_serve
from e0_server.client import PolicyClient
from e0_server.robots import ROBOTS
from made_checkpoints import save_policy

PEERS = Path(__file__).parents[2] / ".peers"
OPENPI_CLIENT = """
import sys, numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from openpi_client.action_chunk_broker import ActionChunkBroker

policy = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]), api_key="sesame")
assert policy.get_server_metadata()["robot"] == "maniskill"
observation = {
    "pixels": {"base_camera": np.zeros((32, 32, 3), np.uint8)},
    "agent_pos": np.zeros(4, np.float32),
    "environment_state": np.zeros(3, np.float32),
    "prompt": "push the cube",
    "e0/seed": 1,
}
chunk = policy.infer(observation)["actions"]
assert chunk.shape == (8, 7) and np.isfinite(chunk).all()
try:
    policy.infer(observation | {"agent_pos": np.zeros(3)})
    raise SystemExit("a wrong observation was answered")
except RuntimeError as error:
    assert "agent_pos: expected 4 finite numbers" in str(error), error
broker = ActionChunkBroker(policy, action_horizon=4)
for step in range(6):
    action = broker.infer(observation)
    assert action["actions"].shape == action["entropy"].shape == (7,)
    np.testing.assert_array_equal(action["actions"], chunk[step % 4])
print("as expected")
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_policy(tmp_path_factory.mktemp("serve"), 3, 32)


def start(checkpoint: Path, *flags: str) -> tuple[subprocess.Popen[str], int]:
    """A running `e0 serve` and its port."""
    command = [sys.executable, "-m", "e0_bench.cli", "serve", str(checkpoint), "--port=0", *flags]
    environment = os.environ | {"E0_SERVER_TOKEN": "sesame"}
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert server.stderr is not None
    for line in server.stderr:
        if '"listening"' in line:
            return server, int(line.rpartition(" ")[2].strip("}\n"))
    raise AssertionError("the server ended")


def test_the_command_serves_until_it_is_told_to_stop(checkpoint: Path, tmp_path: Path) -> None:
    server, port = start(checkpoint, "--robot=maniskill", f"--record={tmp_path / 'record'}")
    with server, PolicyClient(f"ws://127.0.0.1:{port}", token="sesame", timeout=30) as client:
        state = {"agent_pos": [0.0] * 4, "environment_state": [0.0] * 3, "prompt": "go"}
        pixels = {"base_camera": np.zeros((32, 32, 3), np.uint8)}
        assert client.infer(state | {"pixels": pixels})["actions"].shape == (8, 7)
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    assert (tmp_path / "record" / "requests.jsonl").read_text().count("\n") == 1


def test_every_robot_can_be_asked_for() -> None:
    assert get_args(get_type_hints(ServeCommand)["robot"]) == ROBOTS


def test_what_cannot_be_served_is_told(checkpoint: Path) -> None:
    for options, message in (
        ({"host": "0.0.0.0"}, "bring a token"),
        ({"rename": ("a",)}, "takes KEY=FEATURE, got 'a'"),
        ({"rename": ("a=b", "a=c")}, "names 'a' twice"),
        ({"robot": "droid"}, "of 4 numbers, clients of 'droid' send 8"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=message):
            run_serve(ServeCommand(checkpoint, **options))


@pytest.mark.peers
def test_openpis_own_client_is_served(checkpoint: Path) -> None:
    """The client as it comes from the package registry, in an environment of its own."""
    python = PEERS / "openpi" / "bin" / "python"
    if not python.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
            install = [python, "-m", "pip", "install", "openpi-client==0.1.2", "typing_extensions"]
            subprocess.run(install, check=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no registry: {error}")
    server, port = start(checkpoint, "--robot=maniskill")
    with server:
        client = subprocess.run(
            [python, "-c", OPENPI_CLIENT, str(port)], capture_output=True, text=True, timeout=60
        )
        server.terminate()
        assert client.stdout == "as expected\n", client.stderr
