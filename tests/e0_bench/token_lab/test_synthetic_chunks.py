"""The synthetic problem has the statistics it claims, and its metrics tell good chunks from bad."""

from __future__ import annotations

import pytest
import torch

from e0_bench.token_lab.synthetic_chunks import (
    ChunkProblem,
    energy_distance,
    measure,
    tv_floor,
)

CHUNKS = 48


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact_chunks(problem: ChunkProblem, contexts: torch.Tensor, count: int) -> torch.Tensor:
    repeated = contexts.repeat_interleave(count, 0)
    return problem.sample(repeated, seeded(5)).unflatten(0, (len(contexts), count))


def test_modes_are_drawn_by_their_weights() -> None:
    problem = ChunkProblem()
    context = problem.evaluation_contexts(2)[1:]
    chunks = exact_chunks(problem, context, 20_000)[0]
    distance = (chunks[:, None] - problem.mode_chunks(context)).square().mean((-1, -2))
    share = torch.bincount(distance.argmin(-1), minlength=4) / len(chunks)
    torch.testing.assert_close(share, problem.mode_weights(context)[0], atol=0.015, rtol=0)


def test_one_number_shifts_the_whole_chunk() -> None:
    problem = ChunkProblem()
    context = problem.evaluation_contexts(1)
    residual = exact_chunks(problem, context, 20_000)[0, :, None] - problem.mode_chunks(context)
    nearest = residual.square().mean((-1, -2)).argmin(-1)
    residual = residual.take_along_dim(nearest[:, None, None, None], dim=1)[:, 0, :, :3]
    flat = residual.flatten(1)
    direction = problem.direction[:, :3].flatten()
    expected = direction[:, None] * direction + 0.002**2 * torch.eye(len(direction))
    torch.testing.assert_close(flat.T.cov(), expected, atol=4e-5, rtol=0)
    correlation = flat.T.corrcoef()
    assert correlation[-3, -2 - 3 * 3] > 0.9  # forward at the end, sideways in the middle


@pytest.mark.parametrize(
    "problem",
    [
        ChunkProblem(),
        ChunkProblem(modes=2, contexts=None),
        ChunkProblem(horizon=16, action_dim=7, modes=6, context_dim=3, seed=4),
    ],
)
def test_exact_samples_are_coherent_and_swapped_steps_are_not(problem: ChunkProblem) -> None:
    contexts = problem.evaluation_contexts(16)
    chunks = exact_chunks(problem, contexts, CHUNKS)
    assert chunks[..., :-1].abs().max() < 1.6
    assert chunks[..., -1].unique().tolist() == pytest.approx([-0.9, 0.9])
    good = measure(problem, contexts, chunks)
    floor = tv_floor(problem, contexts, CHUNKS)
    assert good.coherence == 1
    assert good.mae == pytest.approx(1.349, rel=0.15)  # median |N(0, 2)|, a little less for u
    assert good.spread == pytest.approx(1, abs=0.08)
    assert good.tv == pytest.approx(floor, rel=0.3) and 0.01 < floor < 0.2

    patchwork = chunks.clone()  # each half is valid, but they belong to different samples
    patchwork[:, :, : problem.horizon // 2] = chunks.roll(1, 1)[:, :, : problem.horizon // 2]
    assert measure(problem, contexts, patchwork).coherence < 0.75
    average = chunks.mean(1, keepdim=True).expand_as(chunks)
    assert measure(problem, contexts, average).coherence < 0.3
    one_mode = problem.mode_chunks(contexts)[:, :1].expand(-1, CHUNKS, -1, -1)
    collapsed = measure(problem, contexts, one_mode)
    assert collapsed.coherence == 1 and collapsed.tv > 0.4 and collapsed.spread == 0
    assert measure(problem, contexts, torch.zeros_like(chunks)).mae is None


def test_spread_is_that_within_a_context_and_a_mode() -> None:
    problem = ChunkProblem()
    contexts = problem.evaluation_contexts(16)
    shift = torch.randn(16, 4, 1, 1, generator=seeded(1))  # another in each, without chance
    fixed = (problem.mode_chunks(contexts) + shift * problem.direction).repeat(1, 5, 1, 1)
    assert measure(problem, contexts, fixed).spread == pytest.approx(0, abs=1e-5)
    moved = fixed + 0.5 * torch.randn(16, 20, 1, 1, generator=seeded(2)) * problem.direction
    assert measure(problem, contexts, moved).spread == pytest.approx(0.5, abs=0.06)
    assert measure(problem, contexts, fixed[:, :4]).spread is None  # no two of one mode


def test_energy_distance_rewards_right_modes_frequencies_and_spread_together() -> None:
    problem = ChunkProblem()
    contexts = problem.evaluation_contexts(32)

    def distance(chunks: torch.Tensor) -> float:
        found = measure(problem, contexts, chunks).energy_distance
        assert found is not None
        return found

    exact = exact_chunks(problem, contexts, CHUNKS)
    middle = problem.mode_chunks(contexts)[:, None]
    mode = (exact[:, :, None] - middle).square().mean((-1, -2)).argmin(-1)[..., None, None, None]
    collapsed = middle.expand(-1, CHUNKS, -1, -1, -1).take_along_dim(mode, dim=2).squeeze(2)
    missing = torch.where(mode.squeeze(2) == 0, collapsed.roll(1, 1), exact)  # mode 0 but rarely
    likeliest = problem.mode_weights(contexts).argmax(-1)[:, None, None, None, None]
    one_mode = middle.take_along_dim(likeliest, dim=2).squeeze(2).expand_as(exact)
    assert abs(distance(exact)) < 8
    assert distance(exact) + 15 < distance(collapsed) < distance(missing)
    assert distance(exact.mean(1, keepdim=True).expand_as(exact)) > distance(one_mode) > 400
    assert measure(problem, contexts, exact[:, :1]).energy_distance is None


def test_energy_distance_is_unbiased_and_that_of_its_formula() -> None:
    first = torch.tensor([[[0.0], [1.0]]])
    second = torch.tensor([[[0.0], [4.0], [9.0]]])
    across = (0 + 2 + 3 + 1 + 3**0.5 + 8**0.5) / 6
    expected = 2 * across - 1 - (2 + 3 + 5**0.5) / 3
    assert energy_distance(first, second).item() == pytest.approx(expected, abs=1e-5)
    same = torch.randn(2, 4000, 5, 3, generator=seeded())
    distances = energy_distance(same[0], same[1])
    assert distances.mean().abs() < 3 * distances.std() / 4000**0.5 and (distances < 0).any()
    with pytest.raises(ValueError, match="two samples on either side, got 1 and 3"):
        energy_distance(first[:, :1], second)


def test_modes_of_the_largest_problem_stay_apart() -> None:
    problem = ChunkProblem(horizon=12, action_dim=7, modes=6)
    middle = problem.mode_chunks(problem.evaluation_contexts(32))
    gap = (middle[:, :, None] - middle[:, None]).abs().amax((-1, -2))
    gap = gap + torch.eye(6)
    assert gap.min() > 0.2


def test_gripper_switches_once_at_a_step_of_mode_and_context() -> None:
    problem = ChunkProblem()
    gripper = problem.mode_chunks(problem.evaluation_contexts(32))[..., -1]
    assert (gripper.diff(dim=-1) <= 0).all()
    closing = (gripper > 0).sum(-1)
    assert closing.min() >= 1 and closing.max() <= problem.horizon - 1
    assert (closing.float().std(0) > 0).all() and (closing.float().std(1) > 0).all()


def test_training_contexts_are_the_fixed_ones_or_always_new() -> None:
    fixed, fresh = ChunkProblem(), ChunkProblem(contexts=None)
    drawn = fixed.sample_contexts(500, seeded())
    assert torch.equal(drawn.unique(dim=0), fixed.evaluation_contexts(32).unique(dim=0))
    assert len(fresh.sample_contexts(500, seeded()).unique(dim=0)) == 500
    with pytest.raises(ValueError, match="has 32 contexts, 33 were asked for"):
        fixed.evaluation_contexts(33)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="modes must be at least 2, got 1"):
        ChunkProblem(modes=1)
    problem = ChunkProblem()
    with pytest.raises(ValueError, match=r"expected chunks \(3, S, 8, 4\)"):
        measure(problem, problem.evaluation_contexts(3), torch.zeros(3, 8, 4))
