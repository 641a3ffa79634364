"""No result is lost to an error that came at the same time."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from e0_bench.futures import as_finished


def test_of_those_that_finished_together_the_failed_come_last() -> None:
    done: list[Future[int]] = [Future() for _ in range(20)]
    for number, future in enumerate(done):
        if number % 2:
            future.set_result(number)
        else:
            future.set_exception(ValueError("failed"))
    kept = []
    with pytest.raises(ValueError, match="failed"):
        for future in as_finished(done):
            kept.append(future.result())
    assert sorted(kept) == list(range(1, 20, 2))
