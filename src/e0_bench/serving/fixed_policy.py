"""A policy that takes a fixed time, behind our server (as a program, with the seconds)."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from e0_server.served import ObservationError
from e0_server.server import PolicyServer, ServerSettings


class FixedPolicy:
    """Answers the number that it is sent in each of 50 steps of 7 numbers, after a fixed time."""

    def __init__(self, seconds: float) -> None:
        self.metadata = {"policy": "fixed"}
        self._seconds = seconds

    def warm_up(self) -> None:
        """There is nothing to make ahead."""

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """See `ServedPolicy`."""
        number = observation.get("number")
        if not isinstance(number, float):
            raise ObservationError("number: expected a number")
        time.sleep(self._seconds)
        return {"actions": np.full((50, 7), number, np.float32)}


if __name__ == "__main__":
    PolicyServer(
        FixedPolicy(float(sys.argv[1])),
        ServerSettings(port=0),
        started=lambda port: print(port, flush=True),
    ).run()
