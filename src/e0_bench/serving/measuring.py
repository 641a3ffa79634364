"""Latency of a good client, undisturbed and under fire, and what the server's memory does."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Process, Value
from typing import Any

import numpy as np
import psutil

from e0_bench.serving.attacks import attack
from e0_server.client import PolicyClient
from e0_server.codec import encode

START_SECONDS = 30.0


class FireError(RuntimeError):
    """The server did not stand it."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of round trips."""

    median: float
    p99: float
    count: int

    @staticmethod
    def of(milliseconds: Sequence[float]) -> Latency:
        """Of what was measured."""
        median, p99 = np.percentile(milliseconds, [50, 99])
        return Latency(float(median), float(p99), len(milliseconds))


def observation(size: int = 224, seed: int = 0) -> dict[str, Any]:
    """What a good client sends: two pictures, a state, and a number to tell answers apart."""
    rng = np.random.default_rng(seed)
    return {
        "observation/image": rng.integers(0, 256, (size, size, 3), np.uint8),
        "observation/wrist_image": rng.integers(0, 256, (size, size, 3), np.uint8),
        "observation/state": rng.normal(size=8).astype(np.float32),
        "prompt": "pick up the bowl",
        "number": 1.0,
    }


@contextmanager
def server_process(command: Sequence[str]) -> Iterator[tuple[psutil.Process, int]]:
    """A running server; its command prints the port once clients can connect."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield psutil.Process(running.pid), int(running.stdout.readline())
        finally:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(START_SECONDS)
            finally:
                running.kill()


def fake_policy_command(seconds: float) -> list[str]:
    """Our server with a policy that takes this long for a chunk and needs no processor for it, as
    one on a GPU."""
    return [sys.executable, "-m", "e0_bench.serving.fixed_policy", str(seconds)]


def measure(client: PolicyClient, count: int, stop: threading.Event | None = None) -> list[float]:
    """Milliseconds of round trips of a good client, one after the other, until there are `count` or
    it is told to stop. Raises FireError for a wrong answer."""
    sent, milliseconds = observation(), []
    while len(milliseconds) < count and not (stop is not None and stop.is_set()):
        sent["number"] = float(len(milliseconds))
        began = time.perf_counter()
        actions = client.infer(sent)["actions"]
        milliseconds.append(1e3 * (time.perf_counter() - began))
        if actions.shape != (50, 7) or not (actions == np.float32(sent["number"])).all():
            raise FireError("a good client got an answer that was not its own")
    return milliseconds


def in_process(seconds: float, count: int) -> list[float]:
    """The same calls without a server."""
    from e0_bench.serving.fixed_policy import FixedPolicy

    policy, sent, milliseconds = FixedPolicy(seconds), observation(), []
    for _ in range(count):
        began = time.perf_counter()
        policy.infer(sent)
        milliseconds.append(1e3 * (time.perf_counter() - began))
    return milliseconds


def under_fire(
    seconds: float, messages: int, attackers: int, seed: int, undisturbed: int
) -> dict[str, Any]:
    """A server with a policy of this many seconds a chunk under `messages` hostile messages from as
    many clients at once as `attackers`; what it did to a good client and to the server's memory.

    answered: how many of the hostile messages were valid all the same and took their turn with the
    policy. A tenth as many come before, so that memory is compared with that of a server which has
    seen a crowd. Raises FireError if the server dies or gives a wrong answer, and
    PolicyUnreachableError if it hangs.
    """
    with (
        server_process(fake_policy_command(seconds)) as (server, port),
        PolicyClient(f"ws://127.0.0.1:{port}", timeout=20.0) as client,
    ):
        # Allocators keep what the first crowd needs; what grows after that is a leak.
        _fire(client, port, messages // 10, attackers, seed + 1000)
        before = Latency.of(measure(client, undisturbed))
        memory, earlier = server.memory_info().rss, _answered(port)
        began = time.monotonic()
        sent, times = _fire(client, port, messages, attackers, seed)
        took = time.monotonic() - began
        others = _answered(port) - earlier - len(times)
        if not server.is_running() or server.status() == psutil.STATUS_ZOMBIE:
            raise FireError("the server died")
        during, after = Latency.of(times), Latency.of(measure(client, undisturbed))
        left = server.memory_info().rss
        return {
            "messages": sent,
            "clients": attackers,
            "answered": others,
            "seconds": took,
            "policy_ms": 1e3 * seconds,
            "undisturbed_ms": vars(before),
            "under_fire_ms": vars(during),
            "afterwards_ms": vars(after),
            "p99_ratio": during.p99 / before.p99,
            "memory_before_mb": memory / 2**20,
            "memory_after_mb": left / 2**20,
            "memory_ratio": left / memory,
        }


def _answered(port: int) -> int:
    """How many requests a server has answered by a chunk."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as page:
        lines = page.read().decode().splitlines()
    (line,) = (x for x in lines if x.startswith('e0_requests_total{outcome="answered"}'))
    return int(float(line.split()[1]))


def _fire(
    client: PolicyClient, port: int, messages: int, attackers: int, seed: int
) -> tuple[int, list[float]]:
    """Hostile messages from two processes; how many they were, and the good client's times."""
    sent = Value("l", 0)
    fire = [
        Process(target=_attackers, args=(port, sent, messages, attackers // 2, seed + part))
        for part in range(2)
    ]
    for process in fire:
        process.start()
    stop = threading.Event()
    threading.Thread(target=_wait, args=(fire, stop), daemon=True).start()
    times = measure(client, sys.maxsize, stop)
    return sent.value, times  # pyright: ignore[reportAttributeAccessIssue]


def _attackers(port: int, sent: Any, messages: int, threads: int, seed: int) -> None:
    os.nice(5)  # they share the machine with what they attack, which other machines would not
    running = [
        threading.Thread(
            target=_attack_on, args=(port, sent, messages, random.Random(f"{seed}-{n}"))
        )
        for n in range(threads)
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def _attack_on(port: int, sent: Any, messages: int, rng: random.Random) -> None:
    while sent.value < messages:
        count = attack("127.0.0.1", port, rng)
        with sent.get_lock():
            sent.value += count


def _wait(fire: Sequence[Process], stop: threading.Event) -> None:
    for process in fire:
        process.join()
    stop.set()


def message_bytes() -> int:
    """Bytes of a good client's request."""
    return len(encode(observation()))
