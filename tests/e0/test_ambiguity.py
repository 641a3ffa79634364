"""Whether a posterior goes one way or several, and which sample acts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from e0.ambiguity import ambiguity, keep_to_one, last_below_the_cut

VALUES = torch.linspace(-3, 3, 601)


def bell(middle: float, width: float) -> Tensor:
    return (-0.5 * ((VALUES - middle) / width).square()).softmax(-1)


def posterior(*steps: list[Tensor]) -> Tensor:
    """Logits (1, H, D, V) of each step's dimensions."""
    return torch.stack([torch.stack(step) for step in steps]).clamp_min(1e-30).log()[None]


GO, STAY, BACK, TURN = bell(2, 0.1), bell(0, 0.1), bell(-2, 0.1), bell(1.5, 0.3)
MOVES = torch.tensor([False, False])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([[STAY, GO]] * 4, 0.0),
        ([[STAY, 0.5 * STAY + 0.5 * GO]] * 4, 0.0),
        ([[STAY, 0.3 * BACK + 0.7 * GO]] * 4, 0.3),
        ([[STAY, STAY], [0.5 * GO + 0.1 * BACK + 0.4 * STAY, STAY]], 0.1),
        ([[STAY, 0.5 * bell(-0.4, 0.1) + 0.5 * bell(0.4, 0.1)]] * 4, 0.0),
        ([[STAY, 0.4 * BACK + 0.6 * GO], [0.2 * BACK + 0.8 * GO, TURN]], 0.4),
    ],
    ids=["one way", "when", "where", "at one step", "hardly apart", "at most"],
)
def test_ambiguity_is_the_mass_on_the_lesser_side_of_rest(
    steps: list[list[Tensor]], expected: float
) -> None:
    measured = ambiguity(posterior(*steps), VALUES.expand(2, -1), MOVES)
    assert measured.tolist() == pytest.approx([expected], abs=1e-3)


def test_of_a_switch_and_of_given_steps_nothing_counts() -> None:
    both = 0.5 * BACK + 0.5 * GO
    logits = posterior([STAY, both], [STAY, 0.3 * BACK + 0.7 * GO])
    values = VALUES.expand(2, -1)
    assert ambiguity(logits, values, torch.tensor([False, True])).item() < 1e-6
    alone = ambiguity(logits, values, torch.tensor([True, True]))
    assert alone.item() == pytest.approx(0.5, abs=1e-3)  # where there is nothing but switches
    given = torch.tensor([[True, False]])
    assert ambiguity(logits, values, MOVES, given).item() == pytest.approx(0.3, abs=1e-3)


def test_chunks_are_judged_each_by_itself() -> None:
    logits = torch.cat([posterior([STAY, STAY]), posterior([0.5 * GO + 0.5 * BACK, STAY])])
    measured = ambiguity(logits, VALUES.expand(2, -1), MOVES)
    assert measured.tolist() == pytest.approx([0.0, 0.5], abs=1e-3)


def test_values_are_cut_where_that_explains_most() -> None:
    values = torch.tensor([[0.0, 0.1, 0.2, 5.0, 5.1], [0.0, 4.0, 4.1, 4.2, 4.3]])
    assert last_below_the_cut(values).tolist() == [2, 0]
    every = [[(x[: n + 1].var(correction=0) * (n + 1) + x[n + 1 :].var(correction=0) * (4 - n))
              for n in range(4)] for x in values]  # fmt: skip
    assert torch.tensor(every).argmin(-1).tolist() == [2, 0]


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
