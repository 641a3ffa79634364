"""Action tokens: one sorted codebook for each action dimension.

A token is the index of a code, and a code is an action value: `encode` takes the nearest code and
`decode` returns the code itself. The release of the E0 paper decodes a bin to its left edge, a
bias of half a bin; here the code of a uniform bin is its centre.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from e0.codebooks import (
    AUTO,
    CODEBOOK_KINDS,
    MAX_LEVELS,
    QUANTILES,
    STATISTICS_KINDS,
    UNBOUNDED,
    CodebookReport,
    Placed,
    Spread,
    measure_spread,
    place_codes,
    place_codes_by_statistics,
    report,
    spread_by_statistics,
)

ArrayLike = Tensor | np.ndarray


class TokenizerNotFittedError(RuntimeError):
    """The tokenizer holds no codebook yet."""


@dataclass(frozen=True)
class RoundTripError:
    """What `decode(encode(actions))` loses; tensors of shape (D,), errors in action units.

    `rmse_over_std` divides by the standard deviation of the data the tokenizer was fitted to.
    """

    rmse: Tensor
    rmse_over_std: Tensor
    maximum: Tensor
    out_of_range: Tensor
    samples: int


class ActionTokenizer(torch.nn.Module):
    """Codebooks of D action dimensions with V codes each, held as buffers of the policy.

    Buffers:
        codebook: float32 (D, V), ascending, in action units. A dimension with fewer distinct
            codes repeats its last one, so that every entry is a legitimate action value.
        code_count: int64 (D,), the number of distinct codes. `encode` stays below it.
        center, scale: float32 (D,), mean and standard deviation of the data (scale 1 where the
            data are constant); the ordinal embedding of `e0.diffusion` is built from them.
        bounds: float32 (2, D), lowest and highest action that is no outlier
            (`e0.codebooks.measure_spread`). Outliers have codes of their own, but in center, scale
            and embedding they count as the bound. `UNBOUNDED` where there are none, and in states
            that were saved without bounds.
        fitted: bool scalar.

    `reports` tells how finely the last fit represents each dimension; a state that is loaded has
    none.

    Raises ValueError if `action_dim` < 1 or `vocabulary_size` < 2. Every use before `fit`,
    `fit_statistics` or the loading of a fitted state raises TokenizerNotFittedError.
    """

    codebook: Tensor
    code_count: Tensor
    center: Tensor
    scale: Tensor
    bounds: Tensor
    fitted: Tensor

    def __init__(self, action_dim: int, vocabulary_size: int = 256) -> None:
        super().__init__()
        if action_dim < 1:
            raise ValueError(f"action_dim must be at least 1, got {action_dim}")
        if vocabulary_size < 2:
            raise ValueError(f"vocabulary_size must be at least 2, got {vocabulary_size}")
        self.register_buffer("codebook", torch.zeros(action_dim, vocabulary_size))
        self.register_buffer("code_count", torch.zeros(action_dim, dtype=torch.int64))
        self.register_buffer("center", torch.zeros(action_dim))
        self.register_buffer("scale", torch.ones(action_dim))
        self.register_buffer("bounds", no_bounds(action_dim))
        self.register_buffer("fitted", torch.tensor(False))
        self.reports: tuple[CodebookReport, ...] = ()
        self._known_fitted = False

    @property
    def action_dim(self) -> int:
        return self.codebook.shape[0]

    @property
    def vocabulary_size(self) -> int:
        return self.codebook.shape[1]

    @property
    def switches(self) -> Tensor:
        """(D,) bool: dimensions that know a few values alone, such as a gripper's command. One that
        was fitted from statistics, or has noise on it, does not count as such."""
        return (self.code_count <= MAX_LEVELS) & (self.code_count < self.vocabulary_size)

    def fit(self, actions: ArrayLike, kind: str = AUTO) -> ActionTokenizer:
        """Fit the codebooks to actions (N, D), in the order of their recording, in place and
        return self.

        Kinds:
            auto: for each dimension by itself uniform or mu_law, whichever rounds held-out actions
                with the smaller error; kmeans where that halves the error; and the distinct values
                themselves where there are no more than V and held-out actions have no others.
            uniform: centres of V equal bins between minimum and maximum.
            uniform_quantile: the same between the 1 % and 99 % quantiles; it clips the tails.
            mu_law: V codes from minimum to maximum, both included, evenly spaced after µ-law
                companding (ITU-T G.711, µ = 255) around zero, or around the middle of the range
                if zero lies outside. Spacing grows with the distance from there, up to 256-fold.
            quantile: the median of each of V bins of equal mass; ties leave fewer codes.
            kmeans: Lloyd's algorithm in one dimension, the least squared error.

        Whatever the kind, a dimension with at most 8 distinct values (and no more than V), such
        as a gripper command, gets exactly these values as codes.

        Raises ValueError for an unknown kind, a shape other than (N >= 1, D), NaN or infinite
        values, or a dimension whose quantile range is empty although it varies.
        """
        _check_kind(kind, CODEBOOK_KINDS)
        data = torch.as_tensor(actions).detach().to("cpu", torch.float64)
        if data.ndim != 2 or data.shape[1] != self.action_dim:
            raise ValueError(
                f"actions must have shape (N, {self.action_dim}), got {tuple(data.shape)}"
            )
        if len(data) == 0:
            raise ValueError("cannot fit a tokenizer to no actions: got 0 rows")
        _check_finite(data, "actions")
        size = self.vocabulary_size
        placed = [place_codes(column, kind, size, d) for d, column in enumerate(data.T)]
        return self._install(placed, [measure_spread(column) for column in data.T])

    def fit_statistics(
        self, statistics: Mapping[str, ArrayLike], kind: str = AUTO
    ) -> ActionTokenizer:
        """Fit in place from dataset statistics of the action (LeRobot's names), return self.

        `statistics` holds `min`, `max`, `mean`, `std` and, for uniform_quantile, `q01` and `q99`,
        each of shape (D,). auto chooses between uniform and mu_law, by the error of values that
        have these statistics, with `q01`, `q10`, `q50`, `q90` and `q99` as far as given.
        Statistics do not tell how many distinct values a dimension has, so a gripper gets V codes
        here; only a constant dimension is recognised.

        Raises ValueError for a kind that needs the raw actions, and for missing, misshapen, not
        finite or contradictory statistics.
        """
        _check_kind(kind, CODEBOOK_KINDS)
        if kind not in STATISTICS_KINDS:
            raise ValueError(
                f"codebook kind {kind!r} needs the raw actions: call fit(actions, {kind!r}), "
                f"or choose one of {', '.join(STATISTICS_KINDS)}"
            )
        known = [name for name in QUANTILES if name in statistics]
        needed = ["q01", "q99"] * (kind == "uniform_quantile")
        names = dict.fromkeys(["min", "max", "mean", "std", *needed, *known])
        values = self._read_statistics(statistics, list(names))
        size = self.vocabulary_size
        rows = [
            {name: value[d].item() for name, value in values.items()}
            for d in range(self.action_dim)
        ]
        placed = [place_codes_by_statistics(row, kind, size, d) for d, row in enumerate(rows)]
        return self._install(placed, [spread_by_statistics(row) for row in rows])

    def encode(self, actions: ArrayLike) -> Tensor:
        """Nearest code of each value: actions (..., D) to int64 tokens (..., D).

        A value halfway between two codes takes the lower one; a value beyond the first or last
        code takes that code (see `count_out_of_range`). Raises ValueError for NaN or infinity.
        """
        return self.nearest(self.check(actions))

    def nearest(self, values: Tensor) -> Tensor:
        """`encode` of values (..., D) that `check` gave; waits for no device."""
        columns = values.reshape(-1, self.action_dim).T.contiguous()
        tokens = torch.searchsorted(self._boundaries(), columns)
        tokens = torch.minimum(tokens, self.code_count[:, None] - 1)
        return tokens.T.reshape(values.shape).contiguous()

    def decode(self, tokens: Tensor) -> Tensor:
        """The codes of tokens (..., D) as float32 actions (..., D).

        Raises ValueError if a token lies outside 0..V-1.
        """
        self.require_fitted()
        if tokens.ndim == 0 or tokens.shape[-1] != self.action_dim:
            raise ValueError(
                f"tokens must have shape (..., {self.action_dim}), got {tuple(tokens.shape)}"
            )
        outside = (tokens < 0) | (tokens >= self.vocabulary_size)
        if outside.any():
            raise ValueError(
                f"{int(outside.sum())} tokens lie outside 0..{self.vocabulary_size - 1}, "
                f"for instance {int(tokens[outside][0])}"
            )
        dimension = torch.arange(self.action_dim, device=tokens.device)
        return self.codebook[dimension, tokens]

    def check(self, actions: ArrayLike) -> Tensor:
        """Actions (..., D) as float32 on the codebooks' device. Raises ValueError for another size
        of the last axis, NaN or infinity, TokenizerNotFittedError without codebooks."""
        self.require_fitted()
        values = torch.as_tensor(actions, dtype=torch.float32, device=self.codebook.device)
        if values.ndim == 0 or values.shape[-1] != self.action_dim:
            raise ValueError(
                f"actions must have shape (..., {self.action_dim}), got {tuple(values.shape)}"
            )
        _check_finite(values, "actions")
        return values

    def count_out_of_range(self, actions: ArrayLike) -> Tensor:
        """How many values of actions (..., D) each dimension's codes do not cover: int64 (D,).

        Covered is what lies between the first and the last code, or beyond them by no more than
        half the neighbouring gap between codes.
        """
        values = self.check(actions).reshape(-1, self.action_dim)
        codebook = self.codebook
        first, last = codebook[:, 0], codebook[:, -1]
        before_last = codebook.gather(1, (self.code_count - 2).clamp_min(0)[:, None])[:, 0]
        rounding = 4 * torch.finfo(codebook.dtype).eps * torch.maximum(first.abs(), last.abs())
        low = first - (codebook[:, 1] - first) / 2 - rounding
        high = last + (last - before_last) / 2 + rounding
        return ((values < low) | (values > high)).sum(0)

    def round_trip_error(self, actions: ArrayLike) -> RoundTripError:
        """Measure `decode(encode(actions))` on at least one action (..., D)."""
        values = self.check(actions).reshape(-1, self.action_dim)
        if len(values) == 0:
            raise ValueError("cannot measure the round-trip error of no actions: got 0 rows")
        error = (self.decode(self.encode(values)) - values).double()
        rmse = error.square().mean(0).sqrt()
        return RoundTripError(
            rmse=rmse.float(),
            rmse_over_std=(rmse / self.scale).float(),
            maximum=error.abs().amax(0).float(),
            out_of_range=self.count_out_of_range(values),
            samples=len(values),
        )

    def require_fitted(self) -> None:
        """Raise TokenizerNotFittedError unless fitted. Reads the device only until it is."""
        if not self._known_fitted:
            self._known_fitted = bool(self.fitted)
        if not self._known_fitted:
            raise TokenizerNotFittedError(
                "the action tokenizer has no codebook: call fit or fit_statistics, or load a "
                "checkpoint that holds a fitted one"
            )

    def extra_repr(self) -> str:
        state = f"code_count={self.code_count.tolist()}" if self.fitted else "not fitted"
        return f"action_dim={self.action_dim}, vocabulary_size={self.vocabulary_size}, {state}"

    def _boundaries(self) -> Tensor:
        """Upper boundary of every code but the last, (D, V - 1)."""
        lower, upper = self.codebook[:, :-1], self.codebook[:, 1:]
        middle = lower + (upper - lower) / 2
        # Between neighbouring floats the middle may round up to the upper code itself.
        return torch.where(middle < upper, middle, lower)

    def _read_statistics(
        self, statistics: Mapping[str, ArrayLike], names: list[str]
    ) -> dict[str, Tensor]:
        missing = [name for name in names if name not in statistics]
        if missing:
            raise ValueError(
                f"the action statistics lack {', '.join(missing)}; they hold "
                f"{', '.join(statistics) or 'nothing'}"
            )
        values = {}
        for name in names:
            value = torch.as_tensor(statistics[name]).detach().to("cpu", torch.float64)
            if value.shape != (self.action_dim,):
                raise ValueError(
                    f"statistic {name!r} must have shape ({self.action_dim},), "
                    f"got {tuple(value.shape)}"
                )
            _check_finite(value, f"statistic {name!r}")
            values[name] = value
        if (values["min"] > values["max"]).any() or (values["std"] < 0).any():
            raise ValueError("contradictory action statistics: min > max or a negative std")
        return values

    def _install(self, placed: Sequence[Placed], spreads: Sequence[Spread]) -> ActionTokenizer:
        """Write distinct, ascending, padded codes and the spread of the data into the buffers."""
        reports = []
        for d, (codes, kind, rms) in enumerate(placed):
            distinct = torch.unique(codes.float())
            reports.append(report(distinct, kind, rms))
            self.code_count[d] = len(distinct)
            self.codebook[d, : len(distinct)] = distinct
            self.codebook[d, len(distinct) :] = distinct[-1]
        mean, std, low, high = torch.tensor(spreads, dtype=torch.float64).T
        varies = (std > 0) & (self.code_count.cpu() > 1)
        self.center.copy_(mean)
        self.scale.copy_(torch.where(varies, std, 1.0))
        self.bounds.copy_(torch.stack([low, high]))
        self.fitted.fill_(True)
        self.reports = tuple(reports)
        return self

    def standardize(self, actions: Tensor) -> Tensor:
        """Actions (..., D) with mean 0 and deviation 1 over the data, outliers put on the bounds.

        Raises TokenizerNotFittedError without codebooks.
        """
        self.require_fitted()
        return (actions.clamp(*self.bounds) - self.center) / self.scale

    def _load_from_state_dict(self, state_dict, prefix, *arguments, **keywords) -> None:
        add_missing_bounds(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *arguments, **keywords)
        self._known_fitted = False  # The loaded tokenizer may be an unfitted one.
        self.reports = ()


def no_bounds(action_dim: int) -> Tensor:
    """The bounds (2, D) of data without outliers."""
    return torch.tensor([[-UNBOUNDED], [UNBOUNDED]]).repeat(1, action_dim)


def add_missing_bounds(state: dict[str, Tensor], prefix: str) -> None:
    """Give a tokenizer's state that was saved without bounds those of no outliers, in place: its
    center and scale are those of all data."""
    if f"{prefix}center" in state:
        state.setdefault(f"{prefix}bounds", no_bounds(len(state[f"{prefix}center"])))


def _check_kind(kind: str, known: tuple[str, ...]) -> None:
    if kind not in known:
        raise ValueError(f"unknown codebook kind {kind!r}; known kinds: {', '.join(known)}")


def _check_finite(values: Tensor, name: str) -> None:
    """Raise ValueError naming the dimensions (last axis) that hold NaN or infinity."""
    finite = torch.isfinite(values)
    if finite.all():
        return
    counts = (~finite).reshape(-1, values.shape[-1]).sum(0).tolist()
    where = ", ".join(f"{count} in dimension {d}" for d, count in enumerate(counts) if count)
    raise ValueError(f"{name} must be finite, found NaN or infinite values: {where}")
