"""A policy behind openpi's websocket protocol.

On connecting a client gets the metadata; then every message is an observation, and gets a chunk or
an error: a text. After an observation that cannot be acted on the connection lives on; after
anything else it is closed. `GET /healthz` answers "OK", `GET /metrics` tells numbers.

One thread owns the policy; the event loop only moves bytes, so that pings, health and further
clients are answered while a chunk is made. A client has at most one request in work, and they are
served in the order in which they came: none can starve the others. Strangers, and messages that are
refused, pass turnstiles, so that a crowd of them leaves time for the rest; of those who say nothing
the oldest go.

Protocol: openpi 15a9616a, `websocket_policy_server.py`.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from e0_server.codec import MAX_MESSAGE, MessageError, decode, encode
from e0_server.metrics import Metrics
from e0_server.recorder import Recorder
from e0_server.served import ObservationError, ServedPolicy
from e0_server.strangers import CLOSING_SECONDS, Strangers, cut_off
from e0_server.turnstile import Turnstile

logger = logging.getLogger(__name__)

# websockets logs a traceback of every handshake that fails, with which peers could fill a disk.
_SILENT = logging.getLogger("e0_server.websockets")
_SILENT.setLevel(logging.CRITICAL + 1)

MAX_CLIENTS = 64
PING_SECONDS = 20.0
HANDSHAKE_SECONDS = 10.0
STRANGERS_A_SECOND = 100.0  # connections without a token
BAD_A_SECOND = 100.0  # messages that are refused


class ServerError(RuntimeError):
    """A server that cannot start as it was told to."""


@dataclass(frozen=True)
class ServerSettings:
    """Where a server listens, and what clients must bring.

    token: what `Authorization: Api-Key TOKEN` must hold; None asks for nothing. Raises ServerError
    for a host beyond this machine without a token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise ServerError(f"the port must be from 0 to 65535, got {self.port}")
        if self.token is not None and not self.token:
            raise ServerError("the token is empty; leave it out, or give one")
        if self.token is None and not is_loopback(self.host):
            raise ServerError(
                f"host {self.host!r} can be reached from other machines, so clients must bring a "
                "token: set E0_SERVER_TOKEN, or --token. It travels as it is: put TLS (a reverse "
                "proxy, a tunnel) in front"
            )


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class PolicyServer:
    """Serves a policy until it is told to stop.

    `run` blocks; `started` is called with the port once clients can connect.
    """

    def __init__(
        self,
        policy: ServedPolicy,
        settings: ServerSettings,
        recorder: Recorder | None = None,
        started: Callable[[int], None] | None = None,
    ) -> None:
        self._policy, self._settings, self._recorder = policy, settings, recorder
        self._started = started
        self._greeting = encode(dict(policy.metadata))
        self._metrics = Metrics()
        self._worker = ThreadPoolExecutor(1, "policy")
        self._strangers = Strangers()
        self._entrance, self._bad = Turnstile(STRANGERS_A_SECOND), Turnstile(BAD_A_SECOND)
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or `stop`; the chunk in work is finished and sent.

        Raises ServerError if the port is taken or the host is not this machine's.
        """
        try:
            asyncio.run(self._run())
        finally:
            self._worker.shutdown(wait=True, cancel_futures=True)
            if self._recorder is not None:
                self._recorder.close()

    def stop(self) -> None:
        """Have `run` end; may be called in any thread."""
        if self._loop is not None and self._stopping is not None:
            with suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)

    async def _run(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._stop_on_signals(self._loop, self._stopping)
        await self._loop.run_in_executor(self._worker, self._policy.warm_up)
        try:
            server = await self._listen()
        except OSError as error:
            address = f"{self._settings.host}:{self._settings.port}"
            raise ServerError(
                f"cannot listen on {address}: {error.strerror or error}. Is another server "
                "running? Choose another --port"
            ) from error
        port = server.sockets[0].getsockname()[1]
        _say("listening", host=self._settings.host, port=port)
        if self._started is not None:
            self._started(port)
        await self._stopping.wait()
        _say("stopping", clients=len(server.connections))
        server.close(close_connections=False)  # no new ones; handlers say goodbye to theirs
        await server.wait_closed()
        _say("stopped")

    async def _listen(self) -> Server:
        return await serve(
            self._handle,
            self._settings.host,
            self._settings.port,
            process_request=self._admit,
            process_response=self._cut_off_refused,
            create_connection=self._strangers.kind(),
            compression=None,
            max_size=MAX_MESSAGE,
            max_queue=1,  # messages that a client sends ahead stay in its own machine
            open_timeout=HANDSHAKE_SECONDS,
            close_timeout=CLOSING_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            server_header=None,
            logger=_SILENT,
        )

    def _stop_on_signals(self, loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
        for name in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(name, stopping.set)
            except (ValueError, RuntimeError):  # not the main thread: the caller stops us
                return

    async def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answers what is no websocket, and who may not connect."""
        self._strangers.spoke(connection)
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, "OK\n")
        known = self._knows(request)
        stranger = not known or self._settings.token is None  # who brings the token need not wait
        if stranger and not await self._entrance.enter():
            return connection.respond(
                HTTPStatus.SERVICE_UNAVAILABLE, "too many want to connect at once\n"
            )
        if not known:
            self._metrics.requests.labels("unauthorized").inc()
            return connection.respond(
                HTTPStatus.UNAUTHORIZED, "send the header Authorization: Api-Key TOKEN\n"
            )
        if request.path == "/metrics":
            return connection.respond(HTTPStatus.OK, self._metrics.page())
        if len(connection.server.connections) >= MAX_CLIENTS:
            return connection.respond(
                HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_CLIENTS} clients are connected already\n"
            )
        return None

    def _cut_off_refused(
        self, connection: ServerConnection, request: Request, response: Response
    ) -> None:
        """See to it that who was not let in goes."""
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            cut_off(connection)

    def _knows(self, request: Request) -> bool:
        if self._settings.token is None:
            return True
        given = ", ".join(request.headers.get_all("Authorization")).encode()
        return hmac.compare_digest(given, f"Api-Key {self._settings.token}".encode())

    async def _handle(self, connection: ServerConnection) -> None:
        client = _name(connection)
        _say("connected", client=client)
        self._metrics.clients.inc()
        try:
            await connection.send(self._greeting)
            code = await self._converse(connection)
            await connection.close(code)
        except ConnectionClosed:
            pass
        except Exception:  # of ours: what clients do is answered
            logger.exception("the connection of %s failed", client)
            await connection.close(CloseCode.INTERNAL_ERROR)
        finally:
            self._metrics.clients.dec()
            _say("left", client=client, code=connection.close_code)

    async def _converse(self, connection: ServerConnection) -> CloseCode:
        """Answer a client until it leaves or must be sent away: with which code."""
        assert self._stopping is not None
        total: float | None = None  # milliseconds of the last answer
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            while True:
                coming = asyncio.ensure_future(connection.recv())
                await asyncio.wait({coming, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    return CloseCode.GOING_AWAY
                began = time.perf_counter()
                answer, code = await self._answer(connection, await coming, stopping, total)
                if answer is not None:
                    await connection.send(answer)
                if code is not None:
                    return code
                total = 1e3 * (time.perf_counter() - began)
        finally:
            stopping.cancel()

    async def _answer(
        self,
        connection: ServerConnection,
        data: str | bytes,
        stopping: asyncio.Future[Any],
        total: float | None,
    ) -> tuple[str | bytes | None, CloseCode | None]:
        """What to send, and, where the connection must end, the code to close it with."""
        try:
            observation = _observation(data)
        except MessageError as error:
            await self._bad.enter()
            return self._failed("malformed", str(error)), CloseCode.INVALID_DATA
        self._metrics.waiting.inc()
        try:
            done = await self._infer(connection, observation, stopping)
        except ObservationError as error:
            await self._bad.enter()
            return self._failed("refused", str(error)), None
        except Exception as error:
            logger.exception("the policy failed")
            text = f"the policy failed: {type(error).__name__}: {error}"
            return self._failed("failed", text), CloseCode.INTERNAL_ERROR
        finally:
            self._metrics.waiting.dec()
        if done is None:
            self._metrics.requests.labels("abandoned").inc()
            return None, CloseCode.GOING_AWAY
        reply, queued, took = done
        self._metrics.queue.observe(queued)
        self._metrics.inference.observe(took)
        self._metrics.requests.labels("answered").inc()
        timing = {"infer_ms": 1e3 * took, "queue_ms": 1e3 * queued}
        if total is not None:
            timing["prev_total_ms"] = total
        reply = {**reply, "server_timing": timing}
        if self._recorder is not None:
            self._recorder.add(_name(connection), observation, reply)
        return encode(reply), None

    async def _infer(
        self,
        connection: ServerConnection,
        observation: Mapping[str, Any],
        stopping: asyncio.Future[Any],
    ) -> tuple[dict[str, Any], float, float] | None:
        """What `_timed` returns; None if the client left, or the server stops before it is this
        request's turn. What the policy has begun it always finishes."""
        job = self._worker.submit(_timed, self._policy, observation, time.perf_counter())
        running = asyncio.wrap_future(job)
        left = asyncio.ensure_future(connection.wait_closed())
        try:
            await asyncio.wait({running, left, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done() and job.cancel():
                return None
            if not left.done():
                await asyncio.wait({running, left}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                return None
            return running.result()
        finally:
            left.cancel()

    def _failed(self, outcome: str, text: str) -> str:
        self._metrics.requests.labels(outcome).inc()
        _say(outcome, reason=text[:500])
        return text


def _observation(data: str | bytes) -> dict[str, Any]:
    if isinstance(data, str):
        raise MessageError("an observation must be a binary message of msgpack, got a text")
    observation = decode(data)
    if not isinstance(observation, dict):
        raise MessageError(f"an observation must be a map, got {type(observation).__name__}")
    return observation


def _timed(
    policy: ServedPolicy, observation: Mapping[str, Any], asked: float
) -> tuple[dict[str, Any], float, float]:
    """A reply, and the seconds that it waited and took. Runs in the thread that owns the policy."""
    began = time.perf_counter()
    reply = dict(policy.infer(observation))
    return reply, began - asked, time.perf_counter() - began


def _name(connection: ServerConnection) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


def _say(event: str, **fields: Any) -> None:
    """One line of the log, as JSON."""
    logger.info("%s", json.dumps({"event": event, **fields}))
