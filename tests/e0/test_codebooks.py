"""The choice of codebooks by their error, and what is reported of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from e0.codebooks import CodebookReport, held_out
from e0.tokens import ActionTokenizer

LEVELS = 40


def joint_angles(seed: int, episodes: int = 20) -> Tensor:
    """Six absolute joints in degrees that move steadily between places within ±40 to ±80."""
    generator = torch.Generator().manual_seed(seed)
    reach = torch.linspace(40, 80, 6)
    places = (torch.rand(episodes, 6, 8, generator=generator) * 2 - 1) * reach[:, None]
    return F.interpolate(places, 300, mode="linear", align_corners=True).mT.flatten(0, 1)


def motions(seed: int, rows: int = 8000) -> Tensor:
    """Delta actions: mostly rest, with motions of heavy tails, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, 3, generator=generator).pow(5) / 300).clamp(-1, 1)


def kinds(tokenizer: ActionTokenizer) -> list[str]:
    return [report.kind for report in tokenizer.reports]


def statistics_of(actions: Tensor, quantiles: bool) -> dict[str, np.ndarray]:
    values = actions.double().numpy()
    statistics = {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
    }
    shares = (1, 10, 50, 90, 99) if quantiles else ()
    return statistics | {f"q{q:02d}": np.quantile(values, q / 100, axis=0) for q in shares}


def test_absolute_joints_get_even_codes() -> None:
    """Half a bin of 160/256 degrees at most; µ-law would be off by up to 1.7 degrees."""
    angles, fresh = joint_angles(0), joint_angles(1)
    tokenizer = ActionTokenizer(6).fit(angles)
    assert kinds(tokenizer) == ["uniform"] * 6
    error = tokenizer.round_trip_error(fresh.clamp(angles.amin(0), angles.amax(0)))
    assert error.rmse.max() < 0.19
    assert error.maximum.max() < 0.32
    assert max(report.largest_gap for report in tokenizer.reports) < 0.63
    assert not any(report.is_coarse for report in tokenizer.reports)


def test_motions_get_codes_that_are_finest_at_rest() -> None:
    tokenizer = ActionTokenizer(3).fit(motions(0))
    assert kinds(tokenizer) == ["mu_law"] * 3
    assert all(report.is_coarse for report in tokenizer.reports)


@pytest.mark.parametrize("make", [joint_angles, motions])
@pytest.mark.parametrize("size", [32, 256])
def test_no_grid_is_better_than_the_chosen_one(make, size: int) -> None:
    fitted, fresh = make(2), make(3)
    fresh = fresh.clamp(fitted.amin(0), fitted.amax(0))
    chosen = ActionTokenizer(fitted.shape[1], size).fit(fitted).round_trip_error(fresh).rmse
    for kind in ("uniform", "mu_law"):
        other = ActionTokenizer(fitted.shape[1], size).fit(fitted, kind).round_trip_error(fresh)
        assert (chosen <= 1.02 * other.rmse).all()


def test_each_dimension_is_judged_by_itself() -> None:
    steps = torch.arange(6000)
    level = (steps * 7 % LEVELS).float()
    gripper = (steps // 30 % 2).float()
    actions = torch.stack([joint_angles(0)[:, 0], level, gripper, torch.full((6000,), 0.3)], 1)
    far = 40 + 0.01 * torch.randn(6000, generator=torch.Generator().manual_seed(0))
    far[100] = 300.0  # an outlier far from all others, which are not around zero
    tokenizer = ActionTokenizer(5).fit(torch.cat([actions, far[:, None]], 1))
    assert kinds(tokenizer) == ["uniform", "levels", "levels", "levels", "kmeans"]
    assert [report.codes for report in tokenizer.reports] == [256, LEVELS, 2, 1, 256]
    assert [report.rms for report in tokenizer.reports[1:4]] == [0, 0, 0]
    assert [report.is_coarse for report in tokenizer.reports[:4]] == [False] * 4
    assert tokenizer.reports[4].rms < 0.01
    # Nothing is clipped, not even the outlier.
    assert tokenizer.decode(tokenizer.encode(torch.tensor([[0, 0, 0, 0.3, 300.0]])))[0, 4] == 300


def test_few_actions_are_no_levels() -> None:
    """100 different values of a continuous dimension fit into 256 codes, the next ones do not."""
    actions = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    assert kinds(ActionTokenizer(1).fit(actions)) != ["levels"]


@pytest.mark.parametrize("quantiles", [True, False])
def test_statistics_choose_as_the_data_do(quantiles: bool) -> None:
    actions = torch.cat([joint_angles(0)[:, :2], motions(0, 6000), torch.ones(6000, 1)], 1)
    tokenizer = ActionTokenizer(6).fit_statistics(statistics_of(actions, quantiles))
    assert kinds(tokenizer) == ["uniform"] * 2 + ["mu_law"] * 3 + ["levels"]
    assert tokenizer.codebook.equal(ActionTokenizer(6).fit(actions).codebook)
    if quantiles:
        expected = tokenizer.round_trip_error(actions).rmse[:2]
        for report, rms in zip(tokenizer.reports[:2], expected.tolist(), strict=True):
            assert report.rms == pytest.approx(rms, rel=0.1)


def test_reports_are_of_the_codes_at_hand() -> None:
    actions = motions(4)
    tokenizer = ActionTokenizer(3, 16).fit(actions, "uniform")
    error = tokenizer.round_trip_error(actions).rmse
    for d, report in enumerate(tokenizer.reports):
        codes = tokenizer.codebook[d]
        assert (report.kind, report.codes) == ("uniform", 16)
        assert report.rms == pytest.approx(error[d].item(), rel=1e-4)
        assert report.largest_gap == pytest.approx(codes.diff().max().item())
        assert (report.low, report.high) == (codes[0].item(), codes[-1].item())
    loaded = ActionTokenizer(3, 16).fit(actions)
    loaded.load_state_dict(tokenizer.state_dict())
    assert loaded.reports == ()


def test_a_report_in_words() -> None:
    report = CodebookReport("uniform", 100, 0.0123, 0.5, -20.0, 20.0)
    assert str(report) == ("100 codes (uniform) from -20 to 20, rms error 0.012, largest gap 0.5")
    assert report.gap_share == 0.0125
    assert report.is_coarse
    assert not CodebookReport("levels", 2, 0.0, 1.0, 0.0, 1.0).is_coarse
    assert not CodebookReport("uniform", 1, 0.0, 0.0, 3.0, 3.0).is_coarse


def test_a_fifth_is_held_out_in_stretches() -> None:
    held = held_out(5000)
    assert held.sum() == 1000
    assert held.long().diff().abs().sum() == 19  # ten stretches of 100 steps, the last at the end
    assert not held_out(3).any()
