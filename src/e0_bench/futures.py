"""Results of other processes as they finish; an error loses none that finished with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any


def as_finished(futures: Iterable[Future[Any]]) -> Iterator[Future[Any]]:
    """Each one as it finishes; of those that finished together the failed ones last."""
    pending = set(futures)
    while pending:
        finished, pending = wait(pending, return_when=FIRST_COMPLETED)
        yield from failed_last(finished)


def failed_last(finished: Iterable[Future[Any]]) -> list[Future[Any]]:
    """Futures that are done, those that raise behind the others."""
    return sorted(finished, key=lambda future: future.exception() is not None)
