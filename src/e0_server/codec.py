"""Messages as bytes: msgpack with NumPy arrays, as openpi's clients write and read them.

An array is a map {b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [2, 3]}, a NumPy
number {b"__npgeneric__": True, b"data": number, b"dtype": "<f4"}. What a peer sends is never
trusted: only plain numbers become arrays, sizes must agree to the byte, and depth, count and length
are bounded, so that a message takes hardly more memory than it has bytes.

Format: openpi-client 0.1.2, `msgpack_numpy.py`.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgpack
import numpy as np

MAX_MESSAGE = 16 * 2**20  # bytes: six pictures of 1280 x 720
MAX_ITEMS = 5_000  # numbers, texts and arrays in all lists and maps of a message
MAX_LENGTH = 4_096  # of one list; of a map MAX_KEYS
MAX_KEYS = 256
MAX_DEPTH = 8
MAX_TEXT = 64 * 2**10  # bytes
MAX_AXES = 6

# Booleans, integers and floats alone: of dtype "O" NumPy would take the peer's bytes for pointers.
_DTYPE = re.compile(r"[<>|=]?[biuf][1248]")
_ARRAY, _NUMBER = b"__ndarray__", b"__npgeneric__"
_LIMITS = {
    "max_str_len": MAX_TEXT,
    "max_bin_len": MAX_MESSAGE,
    "max_array_len": MAX_LENGTH,
    "max_map_len": MAX_KEYS,
    "max_ext_len": 0,
}


class MessageError(ValueError):
    """Bytes that are no message of this protocol."""


def encode(message: Any) -> bytes:
    """The bytes of a message: maps, lists, texts, numbers, None and arrays of plain numbers.

    Raises TypeError for anything else.
    """
    return msgpack.packb(message, default=_pack)  # pyright: ignore[reportReturnType]


def decode(data: bytes) -> Any:
    """The message that bytes stand for; its arrays are copies, of the machine's byte order.

    Raises MessageError saying what is wrong with them.
    """
    if len(data) > MAX_MESSAGE:
        raise MessageError(f"a message may have {MAX_MESSAGE:,} bytes, this one has {len(data):,}")
    count = _Count()
    try:
        message = msgpack.unpackb(
            data, object_hook=count.map, list_hook=count.list, ext_hook=_refuse, **_LIMITS
        )
    except MessageError:
        raise
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        # msgpack's own are ValueErrors; a key that is a map or a list cannot be hashed.
        raise MessageError(
            f"this is not msgpack as expected: {error or type(error).__name__}"
        ) from error
    _require_plain(message)
    return message


class _Count:
    """Adds up what a message holds while it is read, so that many small parts are refused early."""

    def __init__(self) -> None:
        self.items = 0

    def add(self, size: int) -> None:
        self.items += size + 1
        if self.items > MAX_ITEMS:
            raise MessageError(
                f"a message may hold {MAX_ITEMS:,} numbers and texts beside its arrays, this one "
                "holds more: send long vectors and pictures as arrays"
            )

    def list(self, values: list[Any]) -> list[Any]:
        self.add(len(values))
        return values

    def map(self, values: dict[Any, Any]) -> Any:
        self.add(len(values))
        if _ARRAY in values:
            return _array(values)
        return _number(values) if _NUMBER in values else values


def _array(values: dict[Any, Any]) -> np.ndarray:
    shape, data = values.get(b"shape"), values.get(b"data")
    dtype = _dtype(values.get(b"dtype"))
    if not isinstance(data, bytes):
        raise MessageError(f"the data of an array must be bytes, got {type(data).__name__}")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_AXES
        or not all(type(size) is int and 0 <= size <= MAX_MESSAGE for size in shape)
    ):
        raise MessageError(
            f"the shape of an array must be up to {MAX_AXES} sizes from 0 to {MAX_MESSAGE:,}, "
            f"got {str(shape)[:100]}"
        )
    if math.prod(shape) * dtype.itemsize != len(data):
        raise MessageError(
            f"an array of shape {tuple(shape)} and dtype {dtype.str} has "
            f"{math.prod(shape) * dtype.itemsize:,} bytes, {len(data):,} came"
        )
    if dtype.kind == "b":  # any byte but 0 and 1 would be a bool that is neither
        return (np.frombuffer(data, np.uint8) != 0).reshape(shape)
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=True)


def _number(values: dict[Any, Any]) -> Any:
    number, dtype = values.get(b"data"), _dtype(values.get(b"dtype"))
    if not isinstance(number, bool | int | float):
        raise MessageError(f"a NumPy number must be a number, got {type(number).__name__}")
    try:
        return dtype.newbyteorder("=").type(number)
    except (OverflowError, ValueError) as error:
        raise MessageError(f"{number!r} does not fit dtype {dtype.str}: {error}") from error


def _dtype(name: Any) -> np.dtype:
    if isinstance(name, bytes):
        name = name.decode("ascii", "replace")
    if isinstance(name, str) and _DTYPE.fullmatch(name):
        try:
            return np.dtype(name)
        except TypeError:  # "b2", "f1"
            pass
    raise MessageError(
        "the dtype of an array must be one of booleans, integers or floats, as '|u1' or '<f4', "
        f"got {str(name)[:40]!r}"
    )


def _require_plain(message: Any, depth: int = 0) -> None:
    """Refuse what is nested too deep, keys that are no texts, and anything but plain values."""
    if depth > MAX_DEPTH:
        raise MessageError(f"a message may be nested {MAX_DEPTH} deep, this one is deeper")
    if isinstance(message, dict):
        for key, value in message.items():
            if not isinstance(key, str):
                raise MessageError(f"keys must be texts, got {str(key)[:40]!r}")
            _require_plain(value, depth + 1)
    elif isinstance(message, list):
        for value in message:
            _require_plain(value, depth + 1)
    elif not isinstance(message, str | bytes | bool | int | float | np.ndarray | np.generic | None):
        raise MessageError(f"a message cannot hold a {type(message).__name__}")


def _refuse(code: int, _: bytes) -> Any:
    raise MessageError(f"extension types are not part of this protocol, got type {code}")


def _pack(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        dtype = value.dtype.str
        if isinstance(value, np.generic):
            return {_NUMBER: True, b"data": value.item(), b"dtype": dtype}
        data = np.ascontiguousarray(value).tobytes()
        return {_ARRAY: True, b"data": data, b"dtype": dtype, b"shape": list(value.shape)}
    kind = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    raise TypeError(f"a message cannot hold a {kind}; arrays must be of plain numbers")
