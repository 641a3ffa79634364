"""A trained policy is sampled in other ways without training again."""

from __future__ import annotations

import pytest
import torch

from e0 import Observation, Policy, PolicySettings
from e0.policy import OBJECTIVES, make_objective
from e0_bench.closed_loop.decodings import DecodingError
from e0_bench.token_lab.decodings import DECODINGS, OWN, Way, all_ways, decode_settings, decoded


def settings_of(objective: str) -> PolicySettings:
    return PolicySettings(
        cameras=(), vectors={"context": 2}, action_dim=2, horizon=2, use_instruction=False,
        vocabulary_size=16, objective=objective,
    )  # fmt: skip


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_decoding_is_one_that_its_objective_looks_at(objective: str) -> None:
    settings = settings_of(objective)
    ways = [way.decoding for way in all_ways(objective)]
    assert ways[0] == OWN and len(set(ways)) == len(ways)
    assert set(DECODINGS) <= set(OBJECTIVES)
    other = [decode_settings(settings, decoding) for decoding in ways]
    assert len({repr(each) for each in other}) == len(other)  # each changes something
    for each in other:
        make_objective(each, Policy(settings).tokenizer)


def test_a_decoding_that_the_objective_ignores_is_refused() -> None:
    with pytest.raises(DecodingError, match="sets temperature, which objective=flow does not"):
        decode_settings(settings_of("flow"), "temperature=0")


def test_another_decoding_has_the_same_network_and_leaves_the_policy_as_it_is() -> None:
    torch.manual_seed(1)  # a new network's chunks may be alike whatever the noise
    policy = Policy(settings_of("e0")).eval()
    policy.tokenizer.fit(torch.rand(100, 2))
    observation = Observation({}, {"context": torch.randn(3, 2)})

    def drawn(policy: Policy, seed: int) -> torch.Tensor:
        return policy.sample(observation, generator=torch.Generator().manual_seed(seed)).actions

    zero = decoded(policy, "start=zero")
    assert zero.network is policy.network and zero.settings.start == "zero"
    assert torch.equal(drawn(zero, 0), drawn(zero, 1))
    assert not torch.equal(drawn(policy, 0), drawn(policy, 1))
    assert torch.equal(drawn(decoded(policy, OWN), 0), drawn(policy, 0))


def test_rows_are_of_the_ways_that_made_them() -> None:
    old = {"denoising_steps": 4}  # before there were decodings
    assert Way().made(old) and not Way("start=zero").made(old)
    row = old | {"decoding": "start=zero", "best_by": ["coherence"]}
    assert Way("start=zero", 4, ("coherence",)).made(row)
    for other in (Way("start=zero"), Way("start=zero", 2, ("coherence",)), Way(OWN, 4, ())):
        assert not other.made(row)
