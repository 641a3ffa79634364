"""Who comes too soon waits, in order, and nobody else does."""

import asyncio
import time

import pytest

from e0_server.turnstile import Turnstile


def test_a_crowd_passes_one_after_the_other() -> None:
    passed: list[int] = []

    async def pass_through(turnstile: Turnstile, number: int) -> None:
        await turnstile.enter()
        passed.append(number)

    async def crowd() -> float:
        turnstile, began = Turnstile(100.0), time.perf_counter()
        await asyncio.gather(*(pass_through(turnstile, number) for number in range(11)))
        return time.perf_counter() - began

    assert asyncio.run(crowd()) >= 0.099
    assert passed == list(range(11))


def test_who_comes_alone_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def one_by_one() -> None:
        turnstile, clock = Turnstile(2.0), asyncio.get_running_loop()
        for now in (1.0, 5.0, 5.1, 5.1, 9.0):
            monkeypatch.setattr(clock, "time", lambda now=now: now)
            await turnstile.enter()
        monkeypatch.undo()

    monkeypatch.setattr("e0_server.turnstile.asyncio.sleep", sleep)
    asyncio.run(one_by_one())
    assert waits == pytest.approx([0.0, 0.0, 0.4, 0.9, 0.0])


def test_a_crowd_that_gave_up_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e0_server.turnstile.LONGEST_WAIT", 0.25)

    async def crowd() -> list[asyncio.Task[bool]]:
        turnstile = Turnstile(10.0)
        coming = [asyncio.create_task(turnstile.enter()) for _ in range(20)]
        await asyncio.sleep(0.05)
        for one in coming:
            one.cancel()
        assert await turnstile.enter()  # after a quarter of a second, not after two seconds
        return coming

    began = time.perf_counter()
    coming = asyncio.run(crowd())
    assert time.perf_counter() - began < 1.5
    assert [one.result() for one in coming if not one.cancelled()] == [True] + 17 * [False]
