"""Messages: what openpi's clients write is read, and nothing that a peer sends does harm."""

from contextlib import suppress

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from e0_server.codec import MAX_DEPTH, MAX_ITEMS, MAX_MESSAGE, MessageError, decode, encode

DTYPES = ["|b1", "|u1", "<i4", ">i4", "<i8", "<f2", "<f4", ">f8"]


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(min_dims=0, min_side=0))
    )
)
@settings(max_examples=60, deadline=None)
def test_arrays_arrive_as_they_are(array: np.ndarray) -> None:
    came = decode(encode({"a": [array]}))["a"][0]
    assert came.dtype == array.dtype.newbyteorder("=") and came.shape == array.shape
    np.testing.assert_array_equal(came, array)
    assert came.flags.writeable


def test_numbers_and_nesting_arrive_as_they_are() -> None:
    message = {"a": [1, 2.5, None, True, "text", b"bytes"], "b": {"c": np.float32(0.5)}}
    came = decode(encode(message))
    assert came == message and type(came["b"]["c"]) is np.float32


def test_the_bytes_are_those_of_openpi_clients() -> None:
    """Those that 0.1.2 writes for {"x": np.arange(3, dtype=np.int16)}."""
    written = bytes.fromhex(
        "81a17884c40b5f5f6e6461727261795f5fc3c40464617461c406000001000200c4056474797065a33c6932"
        "c405736861706591 03".replace(" ", "")
    )
    np.testing.assert_array_equal(decode(written)["x"], np.arange(3, dtype=np.int16))
    assert encode({"x": np.arange(3, dtype=np.int16)}) == written


def array_with(**changes: object) -> bytes:
    fields = {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2]} | changes
    return msgpack.packb({name.encode(): value for name, value in fields.items()})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "incomplete"),
        (b"\xc1", "not msgpack"),
        (b"\x01\x02", "extra data"),
        (b"\xa1\xff", "utf-8"),
        (b"\x91" * 3000, "not msgpack"),
        (b"\x91" * (MAX_DEPTH + 1) + b"\x01", "deep"),
        (b"\xdd\x7f\xff\xff\xff", "max_array_len"),
        (b"\xdf\x7f\xff\xff\xff", "max_map_len"),
        (msgpack.packb("x" * 70_000), "max_str_len"),
        (msgpack.packb([[0] * 4000] * 6), f"{MAX_ITEMS:,} numbers"),
        (msgpack.packb([[[]] * 4000] * 6), f"{MAX_ITEMS:,} numbers"),
        (msgpack.packb({1: 2}), "map key"),
        (msgpack.packb({b"a": 2}), "keys must be texts"),
        (b"\x81\x80\x01", "map key"),
        (msgpack.packb(msgpack.ExtType(5, b"")), "extension types"),
        (msgpack.packb(msgpack.Timestamp(5)), "not msgpack|extension|Timestamp"),
        (array_with(dtype="|O"), "'|O'"),
        (array_with(dtype="<M8"), "booleans, integers or floats"),
        (array_with(dtype="<f1"), "'<f1'"),
        (array_with(dtype="(9999999,)f4"), "booleans, integers or floats"),
        (array_with(dtype=7), "'7'"),
        (array_with(shape=[3]), r"shape \(3,\) and dtype <f4 has 12 bytes, 8 came"),
        (array_with(shape=[-2, -1]), "sizes from 0"),
        (array_with(shape=[2**40, 0], data=b""), "sizes from 0"),
        (array_with(shape=[1] * 7), "up to 6 sizes"),
        (array_with(shape=2), "sizes from 0"),
        (array_with(shape=[True, 2]), "sizes from 0"),
        (array_with(shape=[2.0]), "sizes from 0"),
        (array_with(data="12345678"), "must be bytes, got str"),
        (msgpack.packb({b"__ndarray__": True}), "dtype"),
        (msgpack.packb({b"__npgeneric__": True, b"dtype": "<f4", b"data": "x"}), "got str"),
        (msgpack.packb({b"__npgeneric__": True, b"dtype": "|i1", b"data": 300}), "does not fit"),
        (bytes(MAX_MESSAGE + 1), "this one has"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(MessageError, match=message):
        decode(data)


def test_a_bool_is_true_or_false() -> None:
    array = decode(array_with(dtype="|b1", data=b"\x00\x02", shape=[2]))
    assert array.view(np.uint8).tolist() == [0, 1]


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with suppress(MessageError):
        decode(data)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_valid_message_with_changed_bytes_is_read_or_refused(data: st.DataObject) -> None:
    message = bytearray(encode({"p": np.zeros((2, 2, 3), np.uint8), "s": [1.0, 2], "t": "go"}))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    with suppress(MessageError):
        decode(bytes(message[: data.draw(st.integers(1, len(message)))]))


def test_what_cannot_be_sent_is_refused() -> None:
    for value in (object(), {1, 2}, np.array(["a"]), np.array([object()]), 1j):
        with pytest.raises(TypeError, match="cannot hold"):
            encode({"a": value})
