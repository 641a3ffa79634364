"""MIP: two regressions, from zeros and from noise of a tenth, with one network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from e0.objectives import MIPObjective, Sampling
from e0.tokens import ActionTokenizer

B, H, D = 2, 3, 2
AUTHORS_RATIO = (1 / 0.1**2) / (1 / 0.9**2)


@pytest.fixture
def objective() -> MIPObjective:
    torch.manual_seed(0)
    return MIPObjective(ActionTokenizer(D, 16).fit(5 * torch.randn(400, D) + 2, "uniform"))


def chunks() -> tuple[Tensor, Tensor]:
    """Actions (B, H, D) and which steps are real: the last one of the second chunk is not."""
    torch.manual_seed(1)
    valid = torch.ones(B, H, dtype=torch.bool)
    valid[1, -1] = False
    return 5 * torch.randn(B, H, D) + 2, valid


class Network:
    """Answers every row with a number, and remembers what it was asked."""

    def __init__(self, first: float = 0.0, second: float = 0.0) -> None:
        self.first, self.second = first, second
        self.noisy, self.time = torch.empty(0), torch.empty(0)

    def __call__(self, noisy: Tensor, time: Tensor, cache: object = None) -> Tensor:
        self.noisy, self.time = noisy, time
        answer = torch.where(time == 1, self.first, self.second)
        return answer[:, None, None, None].expand(noisy.shape).clone()


@pytest.mark.parametrize("draws", [1, 2, 4])
def test_inputs_are_zeros_at_one_and_nearly_clean_at_a_tenth(
    objective: MIPObjective, draws: int
) -> None:
    actions, valid = chunks()
    network = Network()
    rows = 400 // draws
    many = actions[:1].expand(rows, -1, -1), valid[1:].expand(rows, -1)
    assert objective.loss(network, *many, draws).shape == (rows,)
    first = network.time == 1
    assert torch.equal(network.time[~first], torch.full((int((~first).sum()),), 0.1))
    if draws == 1:
        assert 150 < first.sum() < 250  # of 400, by chance
    else:
        assert torch.equal(first.view(rows, draws)[:, 0], torch.ones(rows, dtype=torch.bool))
        assert not first.view(rows, draws)[:, 1:].any()
    assert not network.noisy[first].any()
    seen = network.noisy[~first][..., 0]
    clean = objective.tokenizer.standardize(actions[0]).masked_fill(~valid[1][:, None], 0.0)
    torch.testing.assert_close(seen.mean(0), 0.9 * clean, atol=0.04, rtol=0)
    torch.testing.assert_close(seen.std(0), torch.full((H, D), 0.1), atol=0.03, rtol=0)


@pytest.mark.parametrize("draws", [1, 2, 4])
def test_the_second_regression_counts_as_in_the_authors_code_for_any_draws(
    objective: MIPObjective, draws: int
) -> None:
    """Each term alone, by a network that knows the other one's answer."""
    center = objective.tokenizer.center.expand(4000 // draws, H, D)  # 0 when standardized
    valid = torch.ones(center.shape[:2], dtype=torch.bool)
    first = objective.loss(Network(first=1.0), center, valid, draws).mean()
    second = objective.loss(Network(second=1.0), center, valid, draws).mean()
    assert (first + second).item() == pytest.approx(2, rel=0.1)
    assert (second / first).item() == pytest.approx(AUTHORS_RATIO, rel=0.2)


def test_sampling_is_two_steps_from_zeros(objective: MIPObjective) -> None:
    asked: list[tuple[Tensor, Tensor]] = []

    def network(noisy: Tensor, time: Tensor, cache: object = None) -> Tensor:
        asked.append((noisy, time))
        return noisy + 0.5

    chunk = objective.sample(network, B, H, Sampling(steps=7))
    assert chunk.steps_taken == 2 and chunk.entropy is None and chunk.trace is None
    (start, one), (middle, tenth) = asked
    assert start.shape == (B, H, D, 1) and not start.any()
    assert one.tolist() == [1.0] * B and torch.equal(tenth, torch.full((B,), 0.1))
    torch.testing.assert_close(middle, torch.full((B, H, D, 1), 0.45))
    tokenizer = objective.tokenizer
    expected = (tokenizer.center + 0.95 * tokenizer.scale).expand(B, H, D)
    torch.testing.assert_close(chunk.actions, expected)


def test_actions_stay_within_the_range_of_the_data(objective: MIPObjective) -> None:
    chunk = objective.sample(Network(second=100.0), B, H, Sampling(steps=1))
    assert torch.equal(chunk.actions, objective.tokenizer.codebook[:, -1].expand(B, H, D))
