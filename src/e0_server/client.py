"""A client of a policy server: for a robot's program.

    with PolicyClient("ws://gpu-machine:8000", token="...") as policy:
        chunk = policy.infer({"observation/image": picture, ..., "prompt": "pick up the bowl"})
        for action in chunk["actions"]: ...

It speaks openpi's protocol, also to openpi's own servers.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from e0_server.codec import MAX_MESSAGE, decode, encode

FIRST_WAIT, LONGEST_WAIT = 0.05, 1.0  # seconds between tries to connect
CLOSE_SECONDS = 0.2


class PolicyServerError(RuntimeError):
    """The server answered with an error; it says which. The next call may succeed."""


class PolicyUnreachableError(PolicyServerError):
    """No answer came in time. A robot should hold where it is until there is one again."""


class PolicyClient:
    """Asks a policy server for chunks.

    url: "ws://HOST:PORT" or "wss://...". token: what the server asks for. timeout: seconds that a
    call may take, connecting included. A connection that was lost is made anew, and the request
    sent again: servers remember nothing of it. After a call that ran out of time the connection is
    closed, so that its late answer is never taken for that of another call.

    Not for several threads at once.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 5.0) -> None:
        if not url.startswith(("ws://", "wss://")):
            raise ValueError(f"the address must begin with ws:// or wss://, got {url!r}")
        if not timeout > 0:
            raise ValueError(f"timeout must be positive, in seconds, got {timeout}")
        self.url, self.timeout = url, timeout
        self._headers = {} if token is None else {"Authorization": f"Api-Key {token}"}
        self._connection: ClientConnection | None = None
        self._metadata: Mapping[str, Any] | None = None

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the server told of its policy. Connects if that was not done yet.

        Raises PolicyUnreachableError."""
        if self._metadata is None:
            self._connected(time.monotonic() + self.timeout)
        assert self._metadata is not None
        return self._metadata

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The chunk for an observation; `actions` is float32 (steps, action size).

        Raises PolicyUnreachableError if no answer came in time, PolicyServerError for an answer
        that is an error, TypeError for an observation that cannot be sent.
        """
        request = encode(dict(observation))
        deadline = time.monotonic() + self.timeout
        while True:
            connection = self._connected(deadline)
            try:
                self._send(connection, request, deadline)
                answer = connection.recv(timeout=max(0.0, deadline - time.monotonic()))
                break
            except TimeoutError as error:
                self._drop()
                raise PolicyUnreachableError(
                    f"{self.url} gave no answer within {self.timeout} s"
                ) from error
            except (ConnectionClosed, OSError):
                self._drop()  # and once more, as long as there is time
                time.sleep(FIRST_WAIT)
            except BaseException:
                self._drop()  # interrupted in mid-call: the answer is still to come
                raise
        if isinstance(answer, str):
            raise PolicyServerError(answer)
        return decode(answer)

    def close(self) -> None:
        """Leave the server; the next call connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _send(self, connection: ClientConnection, request: bytes, deadline: float) -> None:
        """Send within the time that is left: a network that stalls blocks the sender, too."""
        left = max(0.0, deadline - time.monotonic())
        guard = threading.Timer(left, _shut, [connection])
        guard.start()
        try:
            connection.send(request)
        finally:
            guard.cancel()

    def _drop(self) -> None:
        """Leave without a goodbye, which might have to wait for a network that stalls."""
        if self._connection is not None:
            _shut(self._connection)
        self.close()

    def __enter__(self) -> PolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connected(self, deadline: float) -> ClientConnection:
        """The connection, made if there is none, with pauses that grow from try to try."""
        wait, reason = FIRST_WAIT, "there was no time to connect"
        while self._connection is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise PolicyUnreachableError(f"{self.url} cannot be reached: {reason}")
            try:
                self._connection = self._connect(left)
            except InvalidStatus as error:
                status = error.response.status_code
                if status in (401, 403):
                    raise PolicyServerError(
                        f"{self.url} wants another token (status {status})"
                    ) from error
                reason = f"it answered with status {status}"
            except (OSError, InvalidHandshake, ConnectionClosed, EOFError) as error:
                reason = str(error) or type(error).__name__
            if self._connection is None:
                time.sleep(max(0.0, min(wait, deadline - time.monotonic())))
                wait = min(2 * wait, LONGEST_WAIT)
        return self._connection

    def _connect(self, seconds: float) -> ClientConnection:
        connection = connect(
            self.url,
            additional_headers=self._headers,
            compression=None,
            max_size=MAX_MESSAGE,
            open_timeout=seconds,
            close_timeout=CLOSE_SECONDS,
            proxy=None,  # a robot's own network; the system's proxy is for browsers
        )
        try:
            greeting = connection.recv(timeout=seconds)
            if isinstance(greeting, str):
                raise PolicyServerError(greeting)
            self._metadata = decode(greeting)
        except BaseException:
            connection.close()
            raise
        return connection


def _shut(connection: ClientConnection) -> None:
    with suppress(OSError):  # it is shut already
        connection.socket.shutdown(socket.SHUT_RDWR)
