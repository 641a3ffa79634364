"""What turning actions into tokens and back loses, measured on episodes held out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from e0.codebooks import CODEBOOK_KINDS
from e0.tokens import ActionTokenizer
from e0_bench.doctor.findings import ERROR, WARNING, Finding, listed, number, share
from e0_bench.doctor.reading import Column

FITTED_ROWS = 200_000  # more would take minutes and change nothing
HELD_OUT = 10  # every tenth episode
LEVELS = 8  # as few codes are the values of the data themselves
GAP = 0.01  # of the range, between neighbouring codes
TAIL, FEW = 0.03, 5  # share and number of values beyond the outermost codes


@dataclass(frozen=True, eq=False)
class TokenError:
    """What the tokens of each dimension lose; arrays (D,), in action units.

    rms and outside (a share): on `samples` held-out actions. gap: the largest one between
    neighbouring codes.
    low, high: the outermost codes. codes: how many there are. reach: the actions' range.
    """

    kind: str
    rms: np.ndarray
    gap: np.ndarray
    outside: np.ndarray
    low: np.ndarray
    high: np.ndarray
    codes: np.ndarray
    reach: np.ndarray
    samples: int


def measure_tokens(action: Column, kind: str, vocabulary_size: int) -> TokenError:
    """Fit codebooks to nine of ten episodes and measure them on the others; a single episode is
    measured on itself. Raises ValueError for actions that no codebook can be fitted to."""
    every = min(HELD_OUT, len(action.episodes))
    held = np.arange(len(action.episodes)) % every == every - 1
    test = np.repeat(held, np.diff(np.append(action.starts, len(action.values))))
    train = ~test if every > 1 else test
    fitted = _thinned(action.values[train])
    tokenizer = ActionTokenizer(len(action.dimensions), vocabulary_size).fit(fitted, kind)
    error = tokenizer.round_trip_error(_thinned(action.values[test]))
    codebook, counts = tokenizer.codebook.numpy().astype(np.float64), tokenizer.code_count.numpy()
    gaps = np.diff(codebook, axis=1).max(1)  # codes that repeat the last one add no gap
    return TokenError(
        kind,
        error.rmse.numpy().astype(np.float64),
        gaps,
        error.out_of_range.numpy() / error.samples,
        codebook[:, 0],
        codebook[:, -1],
        counts,
        np.ptp(action.values, axis=0),
        error.samples,
    )


def _thinned(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values[:: 1 + len(values) // FITTED_ROWS])


def check_tokens(action: Column, kind: str, vocabulary_size: int) -> list[Finding]:
    """Where the chosen codebook is coarse and another one is at least twice as fine, and where
    held-out actions lie beyond it."""
    try:
        chosen = measure_tokens(action, kind, vocabulary_size)
    except ValueError as error:
        text = str(error).partition(";")[0]
        remedy = "choose another --policy.codebook: " + ", ".join(CODEBOOK_KINDS)
        return [Finding(ERROR, "tokens", action.feature, text, "training refuses it", remedy)]
    return _coarse(action, chosen, vocabulary_size) + _beyond(action, chosen)


def widest_gap(tokens: TokenError) -> np.ndarray:
    """The largest gap as a share of the range, (D,); 0 where the codes are the data's levels."""
    spread = np.where(tokens.reach > 0, tokens.reach, 1.0)
    return np.where(tokens.codes > LEVELS, tokens.gap / spread, 0.0)


def _coarse(action: Column, chosen: TokenError, vocabulary_size: int) -> list[Finding]:
    wide = widest_gap(chosen) > GAP
    # On what they were fitted to, k-means and quantiles only seem finer.
    if not wide.any() or len(action.episodes) == 1:
        return []
    best, finest = chosen, chosen.rms
    for kind in CODEBOOK_KINDS:
        try:
            other = measure_tokens(action, kind, vocabulary_size)
        except ValueError:
            continue
        if other.rms[wide].sum() < best.rms[wide].sum() and other.outside.max() <= TAIL:
            best, finest = other, other.rms
    finer = wide & (chosen.rms > 2 * finest)
    if not finer.any():
        return []
    told = [
        f"{action.dimensions[d]} errs by {number(chosen.rms[d])} (rms; largest gap "
        f"{number(chosen.gap[d])}, {share(chosen.gap[d] / chosen.reach[d])} of its range) where "
        f"{best.kind} errs by {number(best.rms[d])}"
        for d in np.flatnonzero(finer)
    ]
    return [
        Finding(
            WARNING,
            "tokens",
            action.feature,
            f"{chosen.kind} codes are coarse here: {listed(told)}",
            "a policy cannot be more precise than its tokens",
            f"--policy.codebook={best.kind}, or more codes by --policy.vocabulary_size",
            action.names(finer),
        )
    ]


def _beyond(action: Column, chosen: TokenError) -> list[Finding]:
    clipped = (chosen.outside > TAIL) & (chosen.outside * chosen.samples >= FEW)
    if not clipped.any() or len(action.episodes) < HELD_OUT:
        return []
    told = [f"{action.dimensions[d]} {share(chosen.outside[d])}" for d in np.flatnonzero(clipped)]
    return [
        Finding(
            WARNING,
            "tokens",
            action.feature,
            f"held-out actions lie beyond the outermost codes: {listed(told)}",
            "they train as the outermost code, which is another action",
            "--policy.codebook=uniform or mu_law cover the whole range"
            if chosen.kind in ("quantile", "uniform_quantile")
            else "record more episodes, or look for some that are unlike the rest",
            action.names(clipped),
        )
    ]
