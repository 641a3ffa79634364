"""A server under fire, for seconds; for a minute in `make slow`, for many by
`benchmarks/server_fire.py`."""

import random

import pytest

from e0_bench.serving.attacks import hostile_message
from e0_bench.serving.measuring import under_fire


@pytest.mark.parametrize(
    ("messages", "attackers"), [(600, 16), pytest.param(9000, 64, marks=pytest.mark.slow)]
)
def test_a_good_client_is_served_while_hostile_ones_attack(messages: int, attackers: int) -> None:
    result = under_fire(0.002, messages=messages, attackers=attackers, seed=0, undisturbed=50)
    assert result["messages"] >= messages
    assert result["afterwards_ms"]["count"] == 50
    assert result["under_fire_ms"]["count"] > 10  # it was not kept waiting
    assert result["memory_after_mb"] < 200


def test_the_same_seed_fires_the_same_messages() -> None:
    first, again, other = (random.Random(seed) for seed in (1, 1, 2))
    messages = [hostile_message(first) for _ in range(50)]
    assert messages == [hostile_message(again) for _ in range(50)]
    assert messages != [hostile_message(other) for _ in range(50)]
