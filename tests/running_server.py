"""A server in a thread of the test, with a policy whose chunks tell what it was asked."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from e0_server.recorder import Recorder
from e0_server.served import ObservationError
from e0_server.server import PolicyServer, ServerSettings


class Doubling:
    """Answers twice the number that it is asked, in every step of a chunk of three. While `gate` is
    closed it works on a chunk without end. Notes what it was asked, and in which thread."""

    metadata: ClassVar = {"policy": "doubling", "horizon": 3}

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.asked: list[float] = []
        self.threads: set[str] = set()

    def warm_up(self) -> None:
        self.threads.add(threading.current_thread().name)

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        self.threads.add(threading.current_thread().name)
        number = observation.get("number")
        if not isinstance(number, int | float):
            raise ObservationError(f"number: expected a number; {number!r} came")
        if number < 0:
            raise ZeroDivisionError("below zero")
        self.asked.append(number)
        self.begun.set()
        assert self.gate.wait(20)
        return {"actions": np.full((3, 1), 2 * number, np.float32)}


@contextmanager
def serving(
    policy: Any, token: str | None = None, recorder: Recorder | None = None
) -> Iterator[tuple[str, PolicyServer]]:
    """The address of a running server and the server; it is stopped afterwards."""
    ports: list[int] = []
    listening = threading.Event()

    def started(port: int) -> None:
        ports.append(port)
        listening.set()

    server = PolicyServer(policy, ServerSettings(port=0, token=token), recorder, started)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert listening.wait(20)
        yield f"ws://127.0.0.1:{ports[0]}", server
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()
