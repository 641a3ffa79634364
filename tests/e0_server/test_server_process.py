"""A server in a process of its own, told to stop or killed in the middle of a chunk."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from e0_server.client import PolicyClient, PolicyUnreachableError

SERVE = """
import sys, time
from running_server import Doubling
from e0_server.server import PolicyServer, ServerSettings

class Slow(Doubling):
    def infer(self, observation):
        if observation.get("seconds"):
            print("begun", flush=True)
            time.sleep(observation["seconds"])
        return super().infer(observation)

settings = ServerSettings(port=int(sys.argv[1]))
PolicyServer(Slow(), settings, started=lambda port: print(port, flush=True)).run()
"""


@contextmanager
def process(port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}:{root / 'tests'}"}
    command = [sys.executable, "-c", SERVE, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        try:
            yield running, f"ws://127.0.0.1:{int(running.stdout.readline())}"
        finally:
            running.kill()


def begin(client: PolicyClient, running: subprocess.Popen[str], pool: ThreadPoolExecutor):
    """Ask for a chunk that takes a second; returns once it is in work."""
    answer = pool.submit(client.infer, {"number": 4, "seconds": 1.0})
    assert running.stdout is not None and running.stdout.readline() == "begun\n"
    return answer


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_server_told_to_stop_gives_the_chunk_first(how: signal.Signals) -> None:
    with process() as (running, url), PolicyClient(url, timeout=20) as client:
        with ThreadPoolExecutor(1) as pool:
            answer = begin(client, running, pool)
            running.send_signal(how)
            assert answer.result()["actions"][0, 0] == 8
        assert running.wait(20) == 0
        client.timeout = 0.3
        with pytest.raises(PolicyUnreachableError):
            client.infer({"number": 1})


def test_a_killed_server_is_told_in_time_and_found_again() -> None:
    with process() as (running, url), ThreadPoolExecutor(1) as pool:
        client = PolicyClient(url, timeout=2.5)
        answer = begin(client, running, pool)
        running.kill()
        with pytest.raises(PolicyUnreachableError, match="cannot be reached"):
            answer.result(timeout=10)  # the robot's program holds
    client.timeout = 20
    with process(int(url.rpartition(":")[2])), client:
        assert client.infer({"number": 3})["actions"][0, 0] == 6
