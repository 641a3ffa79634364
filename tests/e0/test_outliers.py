"""One wild value among many must not decide how all others are learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from e0.codebooks import UNBOUNDED
from e0.diffusion import OrdinalEmbedding
from e0.heads import TokenHead
from e0.network.policy_network import Observation
from e0.objectives.flow import standardize
from e0.policy import Policy, PolicySettings
from e0.tokens import ActionTokenizer

DEVIATION, OUTLIER = 0.01, 3.0


def actions(outlier: bool) -> Tensor:
    """20,000 actions of two dimensions; in the first one value lies 300 deviations away."""
    values = DEVIATION * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    if outlier:
        values[5000, 0] = OUTLIER
    return values


def statistics_of(values: Tensor) -> dict[str, np.ndarray]:
    data = values.double().numpy()
    statistics = {"min": data.min(0), "max": data.max(0), "mean": data.mean(0), "std": data.std(0)}
    return statistics | {
        f"q{q:02d}": np.quantile(data, q / 100, axis=0) for q in (1, 10, 50, 90, 99)
    }


def first_loss(kind: str, outlier: bool, **settings) -> float:
    """The loss of a fresh policy on a batch without the outlier."""
    torch.manual_seed(0)
    policy = Policy(
        PolicySettings(
            cameras=(), vectors={"state": 4}, action_dim=2, use_instruction=False, **settings
        )
    )
    policy.tokenizer.fit(actions(outlier), kind)
    chunks, valid = actions(False)[:256].view(32, 8, 2), torch.ones(32, 8, dtype=torch.bool)
    observation = Observation({}, {"state": torch.zeros(32, 4)})
    return policy.loss(observation, chunks, valid).mean().item()


@pytest.mark.parametrize("kind", ["auto", "uniform", "mu_law", "kmeans"])
def test_the_first_loss_is_that_of_the_cross_entropy(kind: str) -> None:
    """Two deviations more at most on average, not hundreds of times the cross-entropy."""
    without = first_loss(kind, outlier=True, mean_weight=0.0)
    assert without < first_loss(kind, outlier=True) < without + 9


@pytest.mark.parametrize("kind", ["auto", "uniform", "mu_law"])
def test_without_outliers_nothing_is_bounded(kind: str) -> None:
    tokenizer = ActionTokenizer(2).fit(actions(False), kind)
    assert (tokenizer.bounds.abs() == UNBOUNDED).all()
    torch.testing.assert_close(tokenizer.scale, actions(False).std(0, unbiased=False))
    table = (tokenizer.codebook - tokenizer.center[:, None]) / tokenizer.scale[:, None]
    tokens = torch.arange(256)[:, None].expand(-1, 2)
    assert OrdinalEmbedding(tokenizer).embed(tokens)[..., 0].T.equal(table)


@pytest.mark.parametrize("from_statistics", [False, True])
def test_an_outlier_squeezes_nothing(from_statistics: bool) -> None:
    data = actions(True)
    tokenizer = ActionTokenizer(2)
    if from_statistics:
        tokenizer.fit_statistics(statistics_of(data))
    else:
        tokenizer.fit(data)
    # The deviation of all values is .023. From quantiles it is known but roughly.
    assert tokenizer.scale[0].item() == pytest.approx(
        DEVIATION, rel=0.4 if from_statistics else 0.02
    )
    assert tokenizer.scale[1].item() == pytest.approx(DEVIATION, rel=0.02)
    assert (tokenizer.bounds[:, 1].abs() == UNBOUNDED).all()
    assert 0.05 < tokenizer.bounds[1, 0] < 0.1
    # It keeps a code of its own, and everything else counts it as the bound.
    extreme = torch.tensor([[OUTLIER, 0.0]])
    tokens = tokenizer.encode(extreme)
    assert tokenizer.decode(tokens)[0, 0] == pytest.approx(OUTLIER, rel=0.01)
    bound = (tokenizer.bounds[1, 0] - tokenizer.center[0]) / tokenizer.scale[0]
    assert OrdinalEmbedding(tokenizer).embed(tokens)[0, 0, 0] == bound
    assert standardize(tokenizer, extreme)[0, 0] == bound
    assert 5 < bound < 10


def test_values_of_a_rare_kind_are_no_outliers() -> None:
    """A dimension that rests in 199 of 200 steps is not defined by its rest."""
    values = torch.zeros(20_000, 1)
    values[::200] = torch.linspace(-1, 1, 100)[:, None]
    assert (ActionTokenizer(1).fit(values).bounds.abs() == UNBOUNDED).all()


def test_the_mean_counts_up_to_three_deviations() -> None:
    tokenizer = ActionTokenizer(1, 64).fit(actions(False)[:, :1] * 5 + 2, "uniform")
    values = OrdinalEmbedding(tokenizer).embed(torch.arange(64)[:, None])[:, 0, 0]
    assert values.max() > 3.5
    logits, tokens = torch.zeros(1, 1, 1, 64), torch.tensor([[[63]]])
    valid = torch.ones(1, 1, dtype=torch.bool)
    extra = TokenHead(tokenizer).loss(logits, tokens, valid) - TokenHead(
        tokenizer, mean_weight=0.0
    ).loss(logits, tokens, valid)
    expected = (values.clamp(-3, 3).mean() - 3).square()
    torch.testing.assert_close(extra[0], expected)


def test_states_from_before_have_no_bounds_and_act_as_before() -> None:
    source = ActionTokenizer(2, 64).fit(actions(False))
    source.center.fill_(0.1)
    source.scale.fill_(0.02)
    state = source.state_dict()
    del state["bounds"]
    old = ActionTokenizer(2, 64).fit(actions(True))
    old.load_state_dict(state, strict=True)
    assert old.bounds.equal(torch.tensor([[-UNBOUNDED] * 2, [UNBOUNDED] * 2]))
    values = OrdinalEmbedding(old).embed(torch.zeros(1, 2, dtype=torch.int64))[0, :, 0]
    torch.testing.assert_close(values, (old.codebook[:, 0] - 0.1) / 0.02)
    # Whole policies, too.
    policy = torch.nn.ModuleDict({"tokenizer": ActionTokenizer(2, 64)})
    policy.load_state_dict({f"tokenizer.{name}": value for name, value in state.items()})
