"""Each distribution of training times against the quantiles of scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from e0 import PolicySettings
from e0.objectives import Objective
from e0.policy import make_objective
from e0.tokens import ActionTokenizer
from e0.training_times import TIME_DISTRIBUTIONS, _symmetric_beta, sample_time

DRAWS = 100_000
QUANTILES = {
    "beta": stats.beta(1.5, 1).ppf,
    "uniform": stats.uniform.ppf,
    "beta_ends": stats.beta(0.2, 0.2).ppf,
    "shifted": lambda u: 4 * u / (1 + 3 * u),
    "logit_normal": lambda u: stats.logistic.cdf(stats.norm.ppf(u)),
    "low_noise": lambda u: stats.logistic.cdf(-1 + 1.5 * stats.norm.ppf(u)),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", TIME_DISTRIBUTIONS)
def test_training_times_have_their_quantiles(kind: str) -> None:
    time = sample_time(DRAWS, kind, seeded())
    assert time.shape == (DRAWS,) and time.dtype is torch.float32
    assert time.min() >= 0.001 and time.max() <= 0.999
    levels = np.linspace(0.02, 0.98, 25)
    expected = 0.001 + 0.998 * QUANTILES[kind](levels)
    # Shares of the draws below each quantile, whose deviation is at most 0.0016.
    below = (time.double()[:, None] <= torch.from_numpy(expected)).double().mean(0)
    assert (below - torch.from_numpy(levels)).abs().max() < 0.006


def test_beta_ends_keeps_its_share_at_either_end() -> None:
    time = sample_time(DRAWS, "beta_ends", seeded(1))
    for level, share in ((0.9, 0.336), (0.99, 0.208)):
        assert (time > level).float().mean().item() == pytest.approx(share, abs=0.006)
        assert (time < 1 - level).float().mean().item() == pytest.approx(share, abs=0.006)


def test_the_ends_of_a_uniform_number_are_times_too() -> None:
    """The smallest uniform number, raised to the fifth power, is near float32's largest one."""
    uniform = torch.tensor([2.0**-24, 2.0**-24, 1.0, 1e-45])
    angle = torch.tensor([0.0, torch.pi, 1.0, 0.0])
    torch.testing.assert_close(
        _symmetric_beta(0.2, uniform, angle), torch.tensor([1.0, 0.0, 0.5, 1.0])
    )


@pytest.mark.parametrize("kind", TIME_DISTRIBUTIONS)
def test_training_times_follow_the_generator(kind: str) -> None:
    first, again, other = (sample_time(8, kind, seeded(s)) for s in (3, 3, 4))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", TIME_DISTRIBUTIONS)
def test_training_times_are_the_same_on_a_gpu(kind: str) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    time = sample_time(DRAWS, kind, generator, "cuda").sort().values.cpu()
    expected = sample_time(DRAWS, kind, seeded()).sort().values
    assert (time - expected).abs().mean() < 0.006


def test_an_unknown_distribution_is_named_by_whatever_draws_times() -> None:
    message = "unknown time distribution 'gamma'; known: beta, uniform, beta_ends"
    with pytest.raises(ValueError, match=message):
        sample_time(4, "gamma")
    for objective in ("e0", "flow", "hybrid", "dfm"):
        for kind in TIME_DISTRIBUTIONS:
            make(objective, kind)
        with pytest.raises(ValueError, match=message):
            make(objective, "gamma")


def make(objective: str, kind: str) -> Objective:
    settings = PolicySettings((), {"state": 1}, 2, objective=objective, time_distribution=kind)
    return make_objective(settings, ActionTokenizer(2))
