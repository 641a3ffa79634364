"""Strangers and bad messages wait for one another, so that good clients don't wait for them."""

from __future__ import annotations

import asyncio

LONGEST_WAIT = 5.0  # seconds


class Turnstile:
    """Lets so many through in a second, one after the other, in the order in which they came."""

    def __init__(self, rate: float) -> None:
        self._interval, self._next = 1.0 / rate, 0.0

    async def enter(self) -> bool:
        """Return when it is one's turn, at once unless others came just before; False, at once and
        taking no turn, where it would come after LONGEST_WAIT, so that a crowd which gave up long
        ago keeps nobody waiting."""
        now = asyncio.get_running_loop().time()
        turn = max(self._next, now)
        if turn - now > LONGEST_WAIT:
            return False
        self._next = turn + self._interval
        await asyncio.sleep(turn - now)
        return True
