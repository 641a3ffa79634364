"""Action tokenizers: every codebook kind, every edge of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from e0.tokens import (
    CODEBOOK_KINDS,
    STATISTICS_KINDS,
    ActionTokenizer,
    TokenizerNotFittedError,
)


def make_actions(seed: int, rows: int, action_dim: int) -> Tensor:
    """Actions whose dimensions differ in place, size and shape: flat, normal, heavy-tailed."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.rand(rows, action_dim, generator=generator) * 2 - 1
    shapes = torch.stack([flat, torch.erfinv(flat * 0.999), torch.atanh(flat * 0.999).sinh()])
    shape = torch.randint(3, (action_dim,), generator=generator)
    scale = torch.rand(action_dim, generator=generator) * 5 + 0.01
    shift = torch.randn(action_dim, generator=generator)
    return shapes[shape, :, torch.arange(action_dim)].T * scale + shift


@st.composite
def fitted_tokenizers(draw: st.DrawFn) -> tuple[ActionTokenizer, Tensor]:
    action_dim = draw(st.integers(1, 8))
    vocabulary_size = draw(st.one_of(st.integers(2, 64), st.integers(2, 4096)))
    kind = draw(st.sampled_from(CODEBOOK_KINDS))
    actions = make_actions(draw(st.integers(0, 2**16)), draw(st.integers(9, 400)), action_dim)
    return ActionTokenizer(action_dim, vocabulary_size).fit(actions, kind), actions


def gaps_beside(tokenizer: ActionTokenizer, tokens: Tensor) -> Tensor:
    """The wider of the gaps between each token's code and its neighbours."""
    below = tokenizer.decode(torch.where(tokens > 0, tokens - 1, tokens))
    above = tokenizer.decode(torch.minimum(tokens + 1, tokenizer.code_count - 1))
    here = tokenizer.decode(tokens)
    return torch.maximum(above - here, here - below)


@given(fitted_tokenizers())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_properties_of_every_kind(fitted: tuple[ActionTokenizer, Tensor]) -> None:
    tokenizer, actions = fitted
    codebook, count = tokenizer.codebook, tokenizer.code_count
    index = torch.arange(tokenizer.vocabulary_size)
    within = index < count[:, None]

    # Distinct codes ascend strictly; the rest of the row repeats the last one.
    assert (codebook.diff(dim=1) > 0).equal(within[:, 1:])
    assert torch.isfinite(codebook).all()

    # encode(decode(k)) == k for every distinct code, and stays below the count for the others.
    every = index[:, None].expand(-1, tokenizer.action_dim)
    again = tokenizer.encode(tokenizer.decode(every))
    assert again.equal(torch.minimum(every, count - 1))

    # Monotone in the action.
    ordered = actions.sort(dim=0).values
    assert (tokenizer.encode(ordered).diff(dim=0) >= 0).all()

    # The error is at most half a neighbouring gap, unless the value is counted as out of range.
    tokens = tokenizer.encode(actions)
    error = (tokenizer.decode(tokens) - actions).abs()
    rounding = 1e-5 * (1 + actions.abs())
    excess = error > gaps_beside(tokenizer, tokens) / 2 + rounding
    assert (excess.sum(0) <= tokenizer.count_out_of_range(actions)).all()

    # No other code is nearer.
    nearest = (actions[..., None] - codebook).abs().amin(-1)
    assert (error <= nearest + rounding).all()


@given(fitted_tokenizers(), st.integers(0, 2**16))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_encode_is_elementwise(fitted: tuple[ActionTokenizer, Tensor], seed: int) -> None:
    tokenizer, _ = fitted
    chunks = make_actions(seed, 12, tokenizer.action_dim).view(2, 3, 2, -1)
    tokens = tokenizer.encode(chunks)
    assert tokens.shape == chunks.shape
    assert tokens.dtype == torch.int64
    assert tokens[1, 2, 0].equal(tokenizer.encode(chunks[1, 2, 0]))


@pytest.mark.parametrize("kind", ["uniform", "mu_law"])
def test_min_max_kinds_cover_their_data(kind: str) -> None:
    actions = make_actions(3, 500, 6)
    tokenizer = ActionTokenizer(6, 32).fit(actions, kind)
    assert tokenizer.count_out_of_range(actions).tolist() == [0] * 6


@pytest.mark.parametrize("kind", CODEBOOK_KINDS)
def test_dimension_of_few_levels_gets_its_levels(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    levels = [torch.tensor([0.0, 1.0]), torch.tensor([-0.9, 0.1, 0.7]), torch.tensor([0.04])]
    columns = [row[torch.randint(len(row), (300,), generator=generator)] for row in levels]
    actions = torch.stack([*columns, torch.randn(300, generator=generator)], 1)
    tokenizer = ActionTokenizer(4, 64).fit(actions, kind)
    assert tokenizer.code_count[:3].tolist() == [2, 3, 1]
    assert tokenizer.decode(tokenizer.encode(actions))[:, :3].equal(actions[:, :3])
    assert (tokenizer.codebook[:, -1] == actions.amax(0))[:3].all()
    assert tokenizer.scale[2] == 1
    assert tokenizer.round_trip_error(actions).rmse[:3].tolist() == [0, 0, 0]


def test_more_levels_than_codes_are_not_levels() -> None:
    actions = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    tokenizer = ActionTokenizer(1, 2).fit(actions, "uniform")
    assert tokenizer.codebook.tolist() == [[0.75, 2.25]]


@pytest.mark.parametrize("kind", ["uniform", "mu_law", "quantile", "kmeans"])
def test_decodes_to_the_centre(kind: str) -> None:
    """Codes at the left edges would be biased by half a bin, 1/32 here."""
    actions = torch.linspace(-1, 1, 100_001)[:, None]
    tokenizer = ActionTokenizer(1, 32).fit(actions, kind)
    bias = (tokenizer.decode(tokenizer.encode(actions)) - actions).mean()
    assert bias.abs() < 0.01 / 32


def test_uniform_codes_are_the_bin_centres() -> None:
    tokenizer = ActionTokenizer(1, 16).fit(torch.linspace(-2, 6, 999)[:, None], "uniform")
    torch.testing.assert_close(tokenizer.codebook[0], -1.75 + 0.5 * torch.arange(16))


def test_mu_law_is_finest_at_zero_and_holds_both_ends() -> None:
    tokenizer = ActionTokenizer(2, 255).fit(
        torch.stack([torch.linspace(-1, 3, 999), torch.linspace(5, 7, 999)], 1), "mu_law"
    )
    finest = tokenizer.codebook.gather(1, tokenizer.codebook.diff(dim=1).argmin(1, keepdim=True))
    assert finest[0].abs() < 0.01
    assert (finest[1] - 6).abs() < 0.01
    torch.testing.assert_close(tokenizer.codebook[:, 0], torch.tensor([-1.0, 5.0]))
    torch.testing.assert_close(tokenizer.codebook[:, -1], torch.tensor([3.0, 7.0]))


def test_quantile_bins_hold_equal_mass() -> None:
    actions = make_actions(5, 6400, 3)
    tokens = ActionTokenizer(3, 64).fit(actions, "quantile").encode(actions)
    mass = torch.stack([tokens[:, d].bincount(minlength=64) for d in range(3)])
    assert (mass - 100).abs().max() <= 60
    assert (mass[:, 1:-1].float() - 100).abs().mean() < 10


def test_quantile_survives_ties() -> None:
    actions = torch.cat([torch.zeros(500), torch.linspace(0.5, 1, 500)])[:, None]
    tokenizer = ActionTokenizer(1, 64).fit(actions, "quantile")
    assert 32 <= tokenizer.code_count[0] < 64
    assert tokenizer.decode(tokenizer.encode(actions))[:500].abs().max() < 0.01


def test_kmeans_is_a_fixed_point_and_beats_the_uniform_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    actions = torch.randn(20_000, 1, generator=generator).pow(3)
    tokenizer = ActionTokenizer(1, 16).fit(actions, "kmeans")
    tokens = tokenizer.encode(actions)[:, 0]
    sums = torch.zeros(16, dtype=torch.float64).index_add(0, tokens, actions[:, 0].double())
    means = (sums / tokens.bincount(minlength=16)).float()
    torch.testing.assert_close(tokenizer.codebook[0], means, atol=0.02, rtol=0.02)
    uniform = ActionTokenizer(1, 16).fit(actions, "uniform").round_trip_error(actions)
    assert tokenizer.round_trip_error(actions).rmse < 0.3 * uniform.rmse


def test_center_and_scale_are_mean_and_deviation() -> None:
    actions = make_actions(1, 200, 3)
    tokenizer = ActionTokenizer(3, 8).fit(actions.numpy())
    torch.testing.assert_close(tokenizer.center, actions.mean(0))
    torch.testing.assert_close(tokenizer.scale, actions.std(0, unbiased=False))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    actions = make_actions(0, 50, 3)
    tokenizer = ActionTokenizer(3, 16).fit(actions)
    actions[[4, 7], 1] = value
    for refuse in (ActionTokenizer(3, 16).fit, tokenizer.encode, tokenizer.round_trip_error):
        with pytest.raises(ValueError, match="2 in dimension 1"):
            refuse(actions)


def test_values_out_of_range_take_the_end_codes_and_are_counted() -> None:
    tokenizer = ActionTokenizer(2, 4).fit(
        torch.linspace(0, 1, 99)[:, None].expand(-1, 2), "uniform"
    )
    actions = torch.tensor([[-5.0, 0.5], [2.0, 0.5], [1.0, 0.0], [0.3, 1.001]])
    assert tokenizer.encode(actions)[:3, 0].tolist() == [0, 3, 3]
    assert tokenizer.count_out_of_range(actions).tolist() == [2, 1]
    error = tokenizer.round_trip_error(actions)
    assert error.out_of_range.tolist() == [2, 1]
    assert error.samples == 4
    torch.testing.assert_close(error.maximum, torch.tensor([5.125, 0.126]))
    torch.testing.assert_close(error.rmse_over_std, error.rmse / tokenizer.scale)


def test_out_of_range_reaches_half_a_gap_beyond_the_levels() -> None:
    levels = torch.tensor([[0.0, 2.0], [1.0, 2.0]])
    tokenizer = ActionTokenizer(2, 16).fit(levels)
    actions = torch.tensor([[-0.4, 2.0], [1.4, 2.1], [-0.6, 1.9], [1.6, 2.0]])
    assert tokenizer.count_out_of_range(actions).tolist() == [2, 2]


def test_round_trip_error_is_the_root_mean_square() -> None:
    tokenizer = ActionTokenizer(1, 2).fit(torch.tensor([[0.0], [1.0]]))
    error = tokenizer.round_trip_error(torch.tensor([[0.3], [0.6], [1.0]]))
    assert error.rmse.item() == pytest.approx(((0.09 + 0.16) / 3) ** 0.5)


def test_codes_one_float_apart_stay_distinct() -> None:
    low = np.float32(1)
    levels = [low]
    for _ in range(5):
        levels.append(np.nextafter(levels[-1], np.float32(2)))
    actions = torch.tensor(np.stack(levels)[:, None])
    tokenizer = ActionTokenizer(1, 8).fit(actions)
    assert tokenizer.encode(actions)[:, 0].tolist() == list(range(6))


def statistics_of(actions: Tensor) -> dict[str, np.ndarray]:
    values = actions.double().numpy()
    return {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        "q01": np.quantile(values, 0.01, axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
    }


@pytest.mark.parametrize("kind", STATISTICS_KINDS)
def test_statistics_give_the_codebook_of_the_data(kind: str) -> None:
    actions = make_actions(2, 300, 5)
    actions[:, 4] = 0.25
    from_data = ActionTokenizer(5, 128).fit(actions, kind)
    from_statistics = ActionTokenizer(5, 128).fit_statistics(statistics_of(actions), kind)
    for name, buffer in from_data.state_dict().items():
        torch.testing.assert_close(from_statistics.state_dict()[name], buffer)


def test_statistics_that_do_not_suffice_are_refused() -> None:
    tokenizer = ActionTokenizer(2, 16)
    statistics = statistics_of(make_actions(0, 50, 2))
    with pytest.raises(ValueError, match="raw actions"):
        tokenizer.fit_statistics(statistics, "kmeans")
    with pytest.raises(ValueError, match="lack q01, q99; they hold min, max"):
        tokenizer.fit_statistics(
            {k: v for k, v in statistics.items() if k[0] != "q"}, "uniform_quantile"
        )
    with pytest.raises(ValueError, match="'max' must have shape"):
        tokenizer.fit_statistics({**statistics, "max": np.ones(3)})
    with pytest.raises(ValueError, match="'mean' must be finite"):
        tokenizer.fit_statistics({**statistics, "mean": np.array([0.0, np.nan])})
    with pytest.raises(ValueError, match="min > max"):
        tokenizer.fit_statistics({**statistics, "max": statistics["min"] - 1})
    assert not tokenizer.fitted


def test_empty_quantile_range_is_refused() -> None:
    actions = torch.cat([torch.zeros(5000), torch.linspace(0.1, 1, 20)])[:, None]
    with pytest.raises(ValueError, match=r"dimension 0 varies.*choose mu_law"):
        ActionTokenizer(1, 32).fit(actions, "uniform_quantile")


def test_state_dict_round_trip_is_strict() -> None:
    actions = make_actions(4, 100, 3)
    source = ActionTokenizer(3, 32).fit(actions, "kmeans")
    target = ActionTokenizer(3, 32)
    target.load_state_dict(source.state_dict(), strict=True)
    assert target.encode(actions).equal(source.encode(actions))
    assert set(source.state_dict()) == {
        "codebook",
        "code_count",
        "center",
        "scale",
        "bounds",
        "fitted",
    }
    with pytest.raises(RuntimeError, match="size mismatch"):
        ActionTokenizer(3, 16).load_state_dict(source.state_dict())
    target.load_state_dict(ActionTokenizer(3, 32).state_dict())
    with pytest.raises(TokenizerNotFittedError):
        target.encode(actions)


def test_use_before_fitting_is_an_error() -> None:
    tokenizer = ActionTokenizer(2, 8)
    assert "not fitted" in repr(tokenizer)
    for use in (tokenizer.encode, tokenizer.count_out_of_range, tokenizer.round_trip_error):
        with pytest.raises(TokenizerNotFittedError, match="fit or"):
            use(torch.zeros(1, 2))
    with pytest.raises(TokenizerNotFittedError, match="checkpoint"):
        tokenizer.decode(torch.zeros(1, 2, dtype=torch.int64))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="vocabulary_size must be at least 2"):
        ActionTokenizer(2, 1)
    with pytest.raises(ValueError, match="action_dim must be at least 1"):
        ActionTokenizer(0)
    tokenizer = ActionTokenizer(2, 8)
    with pytest.raises(ValueError, match="unknown codebook kind 'cubic'"):
        tokenizer.fit(torch.zeros(3, 2), "cubic")
    with pytest.raises(ValueError, match=r"shape \(N, 2\)"):
        tokenizer.fit(torch.zeros(3, 4, 2))
    with pytest.raises(ValueError, match="0 rows"):
        tokenizer.fit(torch.zeros(0, 2))
    tokenizer.fit(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)))
    assert "vocabulary_size=8" in repr(tokenizer)
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\)"):
        tokenizer.encode(torch.zeros(3))
    with pytest.raises(ValueError, match=r"lie outside 0\.\.7"):
        tokenizer.decode(torch.tensor([[0, 8]]))
    with pytest.raises(ValueError, match=r"lie outside 0\.\.7"):
        tokenizer.decode(torch.tensor([[-1, 0]]))
    with pytest.raises(ValueError, match=r"tokens must have shape \(\.\.\., 2\)"):
        tokenizer.decode(torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="no actions"):
        tokenizer.round_trip_error(torch.zeros(0, 2))
