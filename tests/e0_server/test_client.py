"""A client when servers are late, gone, restarted, or never were."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from e0_server.client import PolicyClient, PolicyServerError, PolicyUnreachableError
from e0_server.codec import encode
from e0_server.server import PolicyServer, ServerSettings
from running_server import Doubling, serving


def test_a_late_answer_is_never_taken_for_that_of_another_call() -> None:
    policy = Doubling()
    policy.gate.clear()
    with serving(policy) as (url, _), PolicyClient(url, timeout=0.3) as client:
        began = time.monotonic()
        with pytest.raises(PolicyUnreachableError, match=r"no answer within 0.3 s"):
            client.infer({"number": 1})
        assert time.monotonic() - began < 2
        policy.gate.set()
        client.timeout = 10
        assert client.infer({"number": 5})["actions"][0, 0] == 10


def test_a_restarted_server_is_found_again() -> None:
    with serving(Doubling()) as (url, _):
        client = PolicyClient(url, timeout=10)
        assert client.infer({"number": 1})["actions"][0, 0] == 2
    port = int(url.rpartition(":")[2])
    client.timeout = 0.3
    with pytest.raises(PolicyUnreachableError, match="cannot be reached"):
        client.infer({"number": 2})
    client.timeout = 20
    answers: list[float] = []
    asking = threading.Thread(
        target=lambda: answers.append(client.infer({"number": 3})["actions"][0, 0])
    )
    asking.start()  # before there is a server again
    time.sleep(0.2)
    server = PolicyServer(Doubling(), ServerSettings(port=port))
    thread = threading.Thread(target=server.run)
    thread.start()
    asking.join(20)
    client.close()
    server.stop()
    thread.join(20)
    assert answers == [6]


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}"


def test_a_silent_server_costs_no_more_than_the_time_limit(silent: str) -> None:
    began = time.monotonic()
    with pytest.raises(PolicyUnreachableError, match="cannot be reached"):
        PolicyClient(silent, timeout=0.3).infer({"number": 1})
    assert time.monotonic() - began < 3


def test_a_network_that_stalls_while_sending_costs_no_more() -> None:
    """The server reads no further than a message ahead, so the sender's buffers run full."""
    policy = Doubling()
    policy.gate.clear()
    with serving(policy) as (url, _), PolicyClient(url, timeout=1.0) as client:
        assert client.metadata and client._connection is not None
        for _ in range(2):
            client._connection.send(encode({"number": 1}))
        assert policy.begun.wait(10)
        began = time.monotonic()
        with pytest.raises(PolicyUnreachableError):
            client.infer({"number": 1, "ballast": [bytes(15 * 2**20)]})
        assert time.monotonic() - began < 5
        policy.gate.set()


def test_errors_say_what_the_server_said() -> None:
    with serving(Doubling()) as (url, _), PolicyClient(url) as client:
        for _ in range(2):  # after the first the server has closed the connection
            with pytest.raises(PolicyServerError, match="ZeroDivisionError: below zero"):
                client.infer({"number": -1})
        assert client.infer({"number": 1})["actions"][0, 0] == 2
        with pytest.raises(TypeError, match="cannot hold a set"):
            client.infer({"number": {1}})


def test_settings_that_make_no_sense_are_refused() -> None:
    for options, message in (
        ({"url": "http://here"}, "must begin with ws://"),
        ({"url": "ws://here", "timeout": 0.0}, "positive"),
    ):
        with pytest.raises(ValueError, match=message):
            PolicyClient(**options)
