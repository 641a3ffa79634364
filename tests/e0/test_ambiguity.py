"""Whether a posterior has one peak or several, and which sample acts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from e0.ambiguity import ambiguity, best_cut, keep_to_one

VALUES = torch.linspace(-3, 3, 601)


def bell(middle: float, width: float) -> Tensor:
    return (-0.5 * ((VALUES - middle) / width).square()).softmax(-1)


def test_little_lies_between_two_peaks_alone() -> None:
    """By the normal distribution: of one Gaussian P(|x| < .4) = .31 lies around the midpoint and
    P(.4 < x < 1.2) = .23 around either mean; of two, four deviations apart, .157 and .341."""
    assert best_cut(VALUES, bell(0, 0.5)).saddle.item() == pytest.approx(1.35, abs=0.05)
    uniform = best_cut(VALUES, torch.full_like(VALUES, 1 / len(VALUES)))
    assert uniform.saddle.item() == pytest.approx(1.0, abs=0.02)
    assert uniform.gap.item() == pytest.approx(3.0, abs=0.02)
    four = best_cut(VALUES, 0.5 * bell(-0.8, 0.4) + 0.5 * bell(0.8, 0.4))
    assert four.saddle.item() == pytest.approx(0.46, abs=0.02)
    two = best_cut(VALUES, 0.3 * bell(-1, 0.1) + 0.7 * bell(1, 0.1))
    assert two.saddle.item() < 0.01
    assert two.gap.item() == pytest.approx(2.0, abs=0.01)
    assert two.lesser.item() == pytest.approx(0.3, abs=0.01)
    assert -0.6 < VALUES[two.last].item() < 0.6


def test_one_code_is_one_way_and_two_are_two() -> None:
    certain = torch.zeros(601).index_fill(0, torch.tensor(17), 1.0)
    assert best_cut(VALUES, certain).lesser.item() < 1e-6
    cut = best_cut(torch.tensor([-1.0, 1.0]), torch.tensor([0.4, 0.6]))
    assert (cut.saddle.item(), cut.gap.item()) == (0.0, 2.0)
    assert cut.lesser.item() == pytest.approx(0.4)


def posterior(*steps: list[Tensor]) -> Tensor:
    """Logits (1, H, D, V) of each step's dimensions."""
    return torch.stack([torch.stack(step) for step in steps]).clamp_min(1e-30).log()[None]


ONE, WIDE = bell(0.3, 0.1), bell(0, 1.5)
TWO = 0.3 * bell(-1, 0.1) + 0.7 * bell(1, 0.1)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([[ONE, ONE]] * 4, 0.0),
        ([[ONE, WIDE]] * 4, 0.0),
        ([[ONE, TWO]] * 4, 1.0),
        ([[ONE, TWO], [TWO, ONE], [ONE, ONE], [ONE, TWO]], 0.5),
        ([[ONE, 0.95 * ONE + 0.05 * bell(2.5, 0.1)]] * 4, 0.0),
        ([[ONE, 0.5 * bell(0, 0.02) + 0.5 * bell(0.3, 0.02)]] * 4, 0.0),
    ],
    ids=["one peak", "a wide one", "two peaks", "at some steps", "an outlier", "nearly one way"],
)
def test_ambiguity_is_the_share_of_steps_with_two_peaks(
    steps: list[list[Tensor]], expected: float
) -> None:
    measured = ambiguity(posterior(*steps), VALUES.expand(2, -1))
    assert measured.tolist() == [expected]


def test_chunks_are_judged_each_by_itself() -> None:
    logits = torch.cat([posterior([ONE, ONE]), posterior([TWO, ONE])])
    assert ambiguity(logits, VALUES.expand(2, -1)).tolist() == [0.0, 1.0]


def samples_of(sides: list[int], seed: int = 0) -> Tensor:
    """Samples (N, 4, 2) around -1 or 1."""
    noise = 0.1 * torch.randn(len(sides), 4, 2, generator=torch.Generator().manual_seed(seed))
    return torch.tensor(sides)[:, None, None] + noise


def test_the_first_sample_chooses_the_way_also_of_the_fewer() -> None:
    batch = torch.stack(
        [samples_of([1, -1, -1, -1, 1, -1]), samples_of([-1, -1, 1, -1, -1, -1], seed=1)]
    )
    chosen = keep_to_one(batch)
    assert chosen[0].item() in (0, 4)
    assert chosen[1].item() in (0, 1, 3, 4, 5)


def test_what_acts_is_in_the_middle_of_its_way() -> None:
    own = torch.tensor([0.3, 0.0, 0.05, -0.1, -0.2])
    samples = torch.cat([1 + own, torch.tensor([-1.0, -1.1, -0.9])])[None, :, None, None]
    assert keep_to_one(samples.expand(-1, -1, 4, 2)).item() == 1


@pytest.mark.parametrize("count", [1, 2])
def test_of_one_or_two_samples_the_first_acts(count: int) -> None:
    assert keep_to_one(samples_of([1, -1][:count])[None]).tolist() == [0]
