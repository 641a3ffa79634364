"""A server with real connections on loopback."""

import json
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from e0_server.client import PolicyClient, PolicyServerError, PolicyUnreachableError
from e0_server.codec import decode, encode
from e0_server.recorder import Recorder
from e0_server.server import PolicyServer, ServerError, ServerSettings
from running_server import Doubling, serving


def raw(url: str, **options: object) -> ClientConnection:
    """A connection, as a client of others has it, after the greeting."""
    connection = connect(url, compression=None, proxy=None, **options)
    assert decode(connection.recv(timeout=10)) == Doubling.metadata
    return connection


def get(url: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url.replace("ws://", "http://"), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_requests_are_answered_in_one_thread() -> None:
    policy = Doubling()
    with serving(policy) as (url, _), PolicyClient(url) as client:
        assert client.metadata == Doubling.metadata
        for number in (1, 2.5):
            reply = client.infer({"number": number})
            np.testing.assert_array_equal(reply["actions"], np.full((3, 1), 2 * number))
            assert reply["actions"].dtype == np.float32
        assert reply["server_timing"].keys() == {"infer_ms", "queue_ms", "prev_total_ms"}
        assert "prev_total_ms" not in PolicyClient(url).infer({"number": 0})["server_timing"]
    assert len(policy.threads) == 1 and threading.current_thread().name not in policy.threads


def test_after_a_wrong_observation_the_connection_lives_on() -> None:
    with serving(Doubling()) as (url, _), raw(url) as connection:
        connection.send(encode({"number": "two"}))
        assert connection.recv(timeout=10) == "number: expected a number; 'two' came"
        connection.send(encode({"number": 2}))
        assert decode(connection.recv(timeout=10))["actions"][0, 0] == 4


@pytest.mark.parametrize(
    ("sent", "told", "code"),
    [
        (b"\xc1", "not msgpack", 1007),
        ("text", "got a text", 1007),
        (encode([1]), "must be a map, got list", 1007),
        (encode({"number": -1}), "the policy failed: ZeroDivisionError: below zero", 1011),
    ],
)
def test_after_anything_else_it_is_closed(sent: bytes | str, told: str, code: int) -> None:
    with serving(Doubling()) as (url, _), raw(url) as connection:
        connection.send(sent)
        assert told in str(connection.recv(timeout=10))
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=10)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == code
        with PolicyClient(url) as another:
            assert another.infer({"number": 1})["actions"][0, 0] == 2


def test_health_and_pings_are_answered_while_a_chunk_is_made() -> None:
    policy = Doubling()
    policy.gate.clear()
    with serving(policy) as (url, _), raw(url) as busy, raw(url) as other:
        busy.send(encode({"number": 1}))
        assert policy.begun.wait(10)
        assert get(f"{url}/healthz") == (200, "OK\n")
        assert other.ping().wait(10)
        assert busy.ping().wait(10)
        policy.gate.set()
        assert decode(busy.recv(timeout=10))["actions"][0, 0] == 2


def test_a_client_that_left_is_skipped_and_none_starves_the_others() -> None:
    policy = Doubling()
    policy.gate.clear()
    with serving(policy) as (url, _):
        first, leaving, greedy, modest = (raw(url) for _ in range(4))
        first.send(encode({"number": 1}))
        assert policy.begun.wait(10)
        leaving.send(encode({"number": 2}))
        wait_until(lambda: "e0_waiting 2.0" in get(f"{url}/metrics")[1])
        for number in (3, 5, 6):  # ahead of its answers
            greedy.send(encode({"number": number}))
        wait_until(lambda: "e0_waiting 3.0" in get(f"{url}/metrics")[1])
        modest.send(encode({"number": 4}))
        wait_until(lambda: "e0_waiting 4.0" in get(f"{url}/metrics")[1])
        leaving.close()
        wait_until(lambda: "e0_waiting 3.0" in get(f"{url}/metrics")[1])
        policy.gate.set()
        for connection, answers in ((first, [2]), (modest, [8]), (greedy, [6, 10, 12])):
            for answer in answers:
                assert decode(connection.recv(timeout=10))["actions"][0, 0] == answer
            connection.close()
    assert policy.asked == [1, 3, 4, 5, 6]


def wait_until(condition: object) -> None:
    deadline = time.monotonic() + 10
    while not condition():  # pyright: ignore[reportCallIssue]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_only_clients_with_the_token_are_let_in() -> None:
    with serving(Doubling(), token="sesame") as (url, _):
        for headers in ({}, {"Authorization": "Api-Key sesam"}, {"Authorization": "sesame"}):
            with pytest.raises(InvalidStatus, match="401"):
                raw(url, additional_headers=headers)
        assert get(f"{url}/healthz")[0] == 200
        assert get(f"{url}/metrics")[0] == 401
        assert get(f"{url}/metrics", Authorization="Api-Key sesame")[0] == 200
        with PolicyClient(url, token="sesame") as client:
            assert client.infer({"number": 1})["actions"][0, 0] == 2
        with pytest.raises(PolicyServerError, match="wants another token"):
            PolicyClient(url).infer({"number": 1})


def test_strangers_wait_for_one_another_and_not_for_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("e0_server.server.STRANGERS_A_SECOND", 0.5)
    with serving(Doubling(), token="sesame") as (url, _), ThreadPoolExecutor(3) as crowd:
        began = time.monotonic()
        strangers = [crowd.submit(get, f"{url}/metrics") for _ in range(3)]
        with PolicyClient(url, token="sesame") as client:
            client.infer({"number": 1})
            assert time.monotonic() - began < 3.5
        assert [stranger.result()[0] for stranger in strangers] == [401] * 3
        assert time.monotonic() - began > 3.9

    monkeypatch.setattr("e0_server.turnstile.LONGEST_WAIT", -1.0)
    with serving(Doubling()) as (url, _), pytest.raises(InvalidStatus, match="503"):
        raw(url)


def test_who_says_nothing_makes_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e0_server.strangers.MAX_SILENT", 3)
    monkeypatch.setattr("e0_server.server.STRANGERS_A_SECOND", 1.0)
    with serving(Doubling(), token="sesame") as (url, _), ExitStack() as held:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))

        def connected() -> socket.socket:
            return held.enter_context(socket.create_connection(address, 10))

        client = held.enter_context(PolicyClient(url, token="sesame"))
        assert client.infer({"number": 1})["actions"][0, 0] == 2
        waiting = [connected() for _ in range(2)]
        for connection in waiting:  # for their turn; the second a second
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"401" in waiting[0].recv(100)
        silent = [connected() for _ in range(5)]
        for connection in silent[:2]:
            assert connection.recv(1) == b""
        assert b"401" in waiting[1].recv(100)
        for connection in silent[2:]:
            connection.settimeout(0.1)
            with pytest.raises(TimeoutError):
                connection.recv(1)
        late = held.enter_context(PolicyClient(url, token="sesame"))
        for number, each in ((2, client), (3, late)):  # who was let in stays
            assert each.infer({"number": number})["actions"][0, 0] == 2 * number


def test_who_leaves_cannot_hold_its_connection_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e0_server.strangers.CLOSING_SECONDS", 0.2)
    with (
        serving(Doubling()) as (url, _),
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 5) as connection,
    ):
        connection.sendall(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert b"101" in connection.recv(4096)
        connection.sendall(b"\x88\x80\0\0\0\0")  # goodbye, and stays
        while connection.recv(4096):
            pass
        wait_until(lambda: refused(connection))


def refused(connection: socket.socket) -> bool:
    """Whether the other side has given the connection up, and not half of it alone."""
    try:
        connection.sendall(b"\x8a\x80\0\0\0\0")
    except OSError:
        return True
    return False


def test_metrics_tell_how_requests_ended() -> None:
    with serving(Doubling()) as (url, _), PolicyClient(url) as client:
        client.infer({"number": 1})
        with pytest.raises(PolicyServerError, match="expected a number"):
            client.infer({})
        _, page = get(f"{url}/metrics")
    for line in (
        'e0_requests_total{outcome="answered"} 1.0',
        'e0_requests_total{outcome="refused"} 1.0',
        "e0_inference_seconds_count 1.0",
        "e0_clients 1.0",
    ):
        assert line in page


def test_clients_beyond_the_limit_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e0_server.server.MAX_CLIENTS", 2)
    with serving(Doubling()) as (url, _), raw(url), raw(url):
        with pytest.raises(InvalidStatus, match="503"):
            raw(url)
        with pytest.raises(PolicyUnreachableError, match="status 503"):
            PolicyClient(url, timeout=0.3).infer({"number": 1})


def test_stopping_finishes_the_running_chunk_and_says_goodbye() -> None:
    policy = Doubling()
    policy.gate.clear()
    with serving(policy) as (url, server), ThreadPoolExecutor() as pool:
        running, waiting, idle = (raw(url) for _ in range(3))
        running.send(encode({"number": 1}))
        assert policy.begun.wait(10)
        waiting.send(encode({"number": 2}))
        wait_until(lambda: "e0_waiting 2.0" in get(f"{url}/metrics")[1])
        server.stop()
        for connection in (idle, waiting):
            with pytest.raises(ConnectionClosed) as closed:
                pool.submit(connection.recv, timeout=10).result()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001
        policy.gate.set()
        assert decode(running.recv(timeout=10))["actions"][0, 0] == 2
        with pytest.raises(ConnectionClosed):
            running.recv(timeout=10)
    assert policy.asked == [1]


def test_a_taken_port_and_odd_settings_are_refused() -> None:
    with serving(Doubling()) as (url, _):
        port = int(url.rpartition(":")[2])
        with pytest.raises(ServerError, match=f"cannot listen on 127.0.0.1:{port}.*--port"):
            PolicyServer(Doubling(), ServerSettings(port=port)).run()
    for options, message in (
        ({"host": "0.0.0.0"}, "bring a token.*TLS"),
        ({"host": "192.168.0.7"}, "'192.168.0.7' can be reached"),
        ({"host": "robot.local"}, "bring a token"),
        ({"port": 70_000}, "from 0 to 65535"),
        ({"token": ""}, "empty"),
    ):
        with pytest.raises(ServerError, match=message):
            ServerSettings(**options)  # pyright: ignore[reportArgumentType]
    assert ServerSettings(host="::1").token is None


def test_a_recording_holds_what_was_asked_and_answered(tmp_path: Path) -> None:
    from PIL import Image

    recorder = Recorder(tmp_path / "record")
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    with serving(Doubling(), recorder=recorder) as (url, _), PolicyClient(url) as client:
        client.infer({"number": 1, "pixels": {"../top": picture}, "bytes": b"\x01"})
    (line,) = (tmp_path / "record" / "requests.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["observation"]["number"] == 1 and row["observation"]["bytes"] == "01"
    assert row["reply"]["actions"] == [[2.0]] * 3
    name = row["observation"]["pixels"]["../top"]
    assert Path(name).name == name
    np.testing.assert_array_equal(Image.open(tmp_path / "record" / name), picture)
    with pytest.raises(FileExistsError, match="holds a recording already"):
        Recorder(tmp_path / "record")


def test_a_server_that_cannot_start_leaves_no_recording(tmp_path: Path) -> None:
    with serving(Doubling()) as (url, _):
        settings = ServerSettings(port=int(url.rpartition(":")[2]))
        for _ in range(2):
            with pytest.raises(ServerError):
                PolicyServer(Doubling(), settings, Recorder(tmp_path)).run()
    assert list(tmp_path.iterdir()) == []


def test_failed_handshakes_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Doubling()) as (url, _):
        host, _, port = url.removeprefix("ws://").partition(":")
        with socket.create_connection((host, int(port))) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"426" in plain.recv(100)
        assert get(f"{url}/healthz")[0] == 200
    assert not [record for record in caplog.records if record.exc_info]


def test_a_recording_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    recorder = Recorder(tmp_path, max_bytes=400)
    for number in range(12):
        recorder.add("client", {"number": number}, {"actions": np.zeros((3, 1))})
    recorder.close()
    rows = (tmp_path / "requests.jsonl").read_text().splitlines()
    assert 1 <= len(rows) <= 4
    assert "full" in caplog.text and f"lacks {12 - len(rows)} requests" in caplog.text
