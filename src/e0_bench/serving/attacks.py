"""Hostile clients: messages and connections that a server must outlive.

Everything is drawn from a seeded generator. Only ever aim it at a server of your own.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from e0_server.codec import MAX_MESSAGE, encode

_DEFENCE = (OSError, WebSocketException, EOFError, TimeoutError)
PATIENCE = 1.0  # seconds that an attacker waits for an answer
MESSAGES = 20  # of one connection at most


def valid_message(rng: random.Random) -> bytes:
    """An observation as a good client sends it, with two small pictures."""
    picture = np.full((32, 32, 3), rng.randrange(256), np.uint8)
    return encode(
        {
            "observation/image": picture,
            "observation/wrist_image": picture,
            "observation/state": np.zeros(8, np.float32),
            "number": rng.random(),
        }
    )


def hostile_message(rng: random.Random) -> bytes | str:
    """One message that no honest client sends."""
    return rng.choice(_MESSAGES)(rng)


def _mutated(rng: random.Random) -> bytes:
    data = bytearray(valid_message(rng))
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(min(len(data), 400))  # where the structure is
        kind = rng.random()
        if kind < 0.6:
            data[place] = rng.randrange(256)
        elif kind < 0.8:
            del data[place : place + rng.randint(1, 40)]
        else:
            data[place:place] = rng.randbytes(rng.randint(1, 40))
    return bytes(data)


def _truncated(rng: random.Random) -> bytes:
    data = valid_message(rng)
    return data[: rng.randrange(len(data))]


def _nested(rng: random.Random) -> bytes:
    opening = rng.choice([b"\x91", b"\x81\xa1a", b"\xdd\x00\x00\x00\x01", b"\x81\xc4\x01a"])
    return opening * rng.randint(5, 100_000) + b"\x01"


def _promising(rng: random.Random) -> bytes:
    """Announces far more than comes."""
    header = rng.choice([b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"])
    return header + struct.pack(">I", rng.randint(2**16, 2**32 - 1)) + rng.randbytes(8)


def _many(rng: random.Random) -> bytes:
    part = rng.choice([[], {}, None, 0, "", 1e300])
    return msgpack.packb([[part] * rng.randint(1, 4000)] * rng.randint(1, 60)) or b""


def _array(rng: random.Random) -> bytes:
    """An array that is none."""
    fields = {
        b"__ndarray__": True,
        b"data": rng.randbytes(rng.choice([0, 7, 8, 64])),
        b"dtype": rng.choice(["|O", "|V8", "<c8", "<M8[s]", "|S4", "<U2", "f4,f4", "<f4", "", 7]),
        b"shape": rng.choice([[-1], [2**40, 2**40], [0, 2**60], [1] * 40, [2.5], None, "ab", [2]]),
    }
    return msgpack.packb({"observation/state": fields}) or b""


def _numbers(rng: random.Random) -> bytes:
    """Read well, but no observation."""
    value = rng.choice([np.full(8, np.nan), np.zeros((8, 0)), np.inf, -1, None, [], {}, "x" * 1000])
    return encode({rng.choice(["number", "observation/state", ""]): value})


def _text(rng: random.Random) -> str:
    return rng.choice(["", "{}", "\x00" * 100, "é" * 5000, "reset"])


def _noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice([1, 50, 5000, 500_000]))


def _too_long(rng: random.Random) -> bytes:
    """Longer than a message may be; seldom, since it takes its time to send."""
    return bytes(MAX_MESSAGE + 1) if rng.random() < 0.01 else _truncated(rng)


_MESSAGES: tuple[Callable[[random.Random], bytes | str], ...] = (
    _mutated, _mutated, _mutated, _truncated, _nested, _promising, _many, _array, _numbers, _text,
    _noise, _too_long,
)  # fmt: skip


def attack(host: str, port: int, rng: random.Random) -> int:
    """One hostile connection; returns how many messages it sent. Raises nothing that a server that
    defends itself may cause."""
    with suppress(*_DEFENCE):
        return rng.choices(_CONNECTIONS, weights=_WEIGHTS)[0](host, port, rng)
    return 1


def _talk(host: str, port: int, rng: random.Random) -> int:
    """Hostile messages until the server has had enough."""
    sent = 0
    with _connection(host, port) as connection, suppress(*_DEFENCE):
        for _ in range(MESSAGES):
            connection.send(hostile_message(rng))
            sent += 1
            connection.recv(timeout=PATIENCE)
    return sent


def _deaf(host: str, port: int, rng: random.Random) -> int:
    """Asks and never listens."""
    with _connection(host, port) as connection:
        for _ in range(5):
            connection.send(hostile_message(rng))
        time.sleep(rng.random() * 0.2)
        connection.socket.close()
    return 5


def _half_open(host: str, port: int, rng: random.Random) -> int:
    """Part of a handshake, or nothing at all."""
    with socket.create_connection((host, port), timeout=PATIENCE) as plain:
        plain.sendall(rng.choice([b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET ", b"\x16\x03\x01"]))
        time.sleep(rng.random() * 0.3)
    return 1


def _slow(host: str, port: int, rng: random.Random) -> int:
    """Announces a long message and sends it by the byte."""
    with _connection(host, port) as connection:
        frame = b"\x82\xff" + struct.pack(">Q", 2**20) + bytes(4)
        for byte in frame + bytes(rng.randint(1, 20)):
            connection.socket.sendall(bytes([byte]))
            time.sleep(0.01)
        connection.socket.close()
    return 1


def _storm(host: str, port: int, rng: random.Random) -> int:
    """Comes and goes."""
    for _ in range(10):
        with suppress(*_DEFENCE):
            _connection(host, port).socket.close()
    return 10


def _frames(host: str, port: int, rng: random.Random) -> int:
    """Breaks the rules of websockets themselves."""
    with _connection(host, port) as connection:
        connection.socket.sendall(
            rng.choice(
                [
                    b"\x82\x01a",  # not masked
                    b"\x83\x80\x00\x00\x00\x00",  # an opcode that does not exist
                    b"\xf2\x80\x00\x00\x00\x00",  # reserved bits
                    b"\x09\x80\x00\x00\x00\x00",  # a ping in pieces
                    b"\x80\x80\x00\x00\x00\x00",  # the end of what never began
                    b"\x82\xff" + b"\xff" * 8,  # a length beyond all numbers
                    rng.randbytes(64),
                ]
            )
        )
        with suppress(TimeoutError):
            connection.recv(timeout=PATIENCE)
    return 1


def _connection(host: str, port: int) -> Any:
    connection = connect(
        f"ws://{host}:{port}", compression=None, proxy=None, open_timeout=PATIENCE,
        close_timeout=0.05, max_size=None,
    )  # fmt: skip
    connection.recv(timeout=PATIENCE)
    return connection


_CONNECTIONS = (_talk, _deaf, _half_open, _slow, _storm, _frames)
_WEIGHTS = (60, 8, 8, 2, 2, 10)
