"""Checks of a vector feature's values: NaN, constants, outliers, episodes unlike the others."""

from __future__ import annotations

import numpy as np

from e0_bench.doctor.findings import (
    ERROR,
    NOTE,
    WARNING,
    Finding,
    counted,
    in_episodes,
    left_out,
    number,
)
from e0_bench.doctor.reading import Column

NEARLY_ALL = 0.995  # a share of frames with one and the same value
NOISE = 1e-3  # a spread so small against the value itself is a sensor's noise
OUTLIER = 20.0  # robust deviations from the median
OUTLIER_SHARE = 0.005  # more of them are a heavy tail
UNLIKE = 20.0  # times the usual distance between episodes, or spread within one
FEW_EPISODES = 0.25  # more of them are another task, not a mistake


def check_finite(column: Column) -> list[Finding]:
    """NaN and infinity."""
    wrong = np.logical_not(np.isfinite(column.values))
    if not wrong.any():
        return []
    rows = np.asarray(wrong.any(1))
    episodes = column.affected(rows)
    frames = counted(int(rows.sum()), "frame")
    return [
        Finding(
            ERROR,
            "NaN or infinity",
            column.feature,
            f"NaN or infinite in {frames} of {in_episodes(episodes)}",
            "a single one turns the loss, and then every weight, into NaN",
            left_out(episodes, len(column.episodes)),
            column.names(np.asarray(wrong.any(0))),
            episodes,
        )
    ]


def check_constant(column: Column) -> list[Finding]:
    """Dimensions with one value, with one value nearly always, and with noise around one."""
    constant = ~column.varies & np.isfinite(column.values).any(0)
    findings = []
    if constant.all() and column.feature == "action":
        findings.append(
            Finding(
                ERROR,
                "constant",
                column.feature,
                "no dimension ever changes",
                "there is nothing to learn",
                "check that commands were recorded, and under the name 'action'",
            )
        )
    elif constant.any():
        first = column.values[0, constant]
        values = ", ".join(dict.fromkeys(map(number, first[:4]))) + (", ..." * (len(first) > 4))
        findings.append(
            Finding(
                NOTE,
                "constant",
                column.feature,
                f"always the same value ({values})",
                "it tells nothing; if the robot did use it, it was not recorded",
                "none needed if that is so",
                column.names(constant),
            )
        )
    return findings + _rarely_changing(column) + _only_noise(column)


def _rarely_changing(column: Column) -> list[Finding]:
    findings = []
    for d in np.flatnonzero(column.varies):
        values = column.values[:, d]
        levels, counts = np.unique(values[np.isfinite(values)], return_counts=True)
        if counts.max() < NEARLY_ALL * counts.sum():
            continue
        usual = levels[counts.argmax()]
        episodes = column.affected(values != usual)
        frames = counted(int((values != usual).sum()), "frame")
        findings.append(
            Finding(
                WARNING,
                "near-constant",
                column.feature,
                f"{number(usual)} in all but {frames} ({in_episodes(episodes)})",
                "so rare a value is hardly learned, and divided by the dimension's tiny deviation "
                "it is a huge input",
                "check these frames; record more of them if they matter, "
                + left_out(episodes, len(column.episodes))
                + " if they do not",
                column.names(np.array([d])),
                episodes,
            )
        )
    return findings


def _only_noise(column: Column) -> list[Finding]:
    values = np.where(np.isfinite(column.values), column.values, np.nan)[:, column.varies]
    if not values.size:
        return []
    low, middle, high = np.nanquantile(values, [0.01, 0.5, 0.99], axis=0)
    spread = high - low
    noise = (spread > 0) & ((spread < NOISE * np.abs(middle)) | (spread < 1e-5 * spread.max()))
    if not noise.any():
        return []
    chosen = np.flatnonzero(column.varies)[noise]
    told = "; ".join(
        f"{number(m)} ± {number(s / 2)}" for m, s in zip(middle[noise], spread[noise], strict=True)
    )
    acts = column.feature == "action"
    return [
        Finding(
            WARNING,
            "near-constant",
            column.feature,
            f"varies by no more than a sensor's noise ({told})",
            "the tokens tell noise apart" if acts else "normalized, noise is as large as a signal",
            "check the recording"
            if acts
            else "leave the feature out, or blur it with --policy.vector_noise=0.1",
            column.names(chosen),
        )
    ]


def check_outliers(column: Column) -> list[Finding]:
    """Few values very far from the median, measured in robust deviations."""
    values = np.where(np.isfinite(column.values), column.values, np.nan)
    distance = _robust_distance(values)
    far = distance > OUTLIER
    findings = []
    for d in np.flatnonzero(far.any(0) & (far.mean(0) < OUTLIER_SHARE)):
        episodes = column.affected(far[:, d])
        worst = int(np.nanargmax(distance[:, d]))
        findings.append(
            Finding(
                WARNING,
                "outliers",
                column.feature,
                f"far off in {counted(int(far[:, d].sum()), 'frame')} of {in_episodes(episodes)}, "
                f"up to {number(values[worst, d])} where the median is "
                f"{number(np.nanmedian(values[:, d]))} ({number(distance[worst, d])} robust "
                "deviations)",
                "it stretches the codebook, and its error outweighs all others"
                if column.feature == "action"
                else "it stretches the normalization, and is a huge input",
                "look at them; " + left_out(episodes, len(column.episodes)),
                column.names(np.array([d])),
                episodes,
            )
        )
    return findings


def _robust_distance(values: np.ndarray) -> np.ndarray:
    """|x - median| in robust deviations, (N, D); 0 where there is no spread.

    The deviation is the larger one of what a Gaussian would have by its median absolute deviation
    and by its quantiles at 1 % and 99 %: the former alone is 0 for values that mostly rest."""
    low, middle, high = np.nanquantile(values, [0.01, 0.5, 0.99], axis=0)
    away = np.abs(values - middle)
    scale = np.maximum(1.4826 * np.nanmedian(away, axis=0), (high - low) / 4.65)
    return np.divide(away, scale, out=np.zeros_like(away), where=scale > 0)


def check_episodes_alike(column: Column) -> list[Finding]:
    """Episodes whose values lie where no other episode's do: other units, another zero."""
    parts = [values for _, values in column.split()]
    if len(parts) < 4:
        return []
    low, medians, high = np.stack(
        [np.quantile(p, [0.05, 0.5, 0.95], axis=0) for p in parts], axis=1
    )
    spreads = high - low  # a single wild value is an outlier, not another unit
    middle, width = np.median(medians, axis=0), np.median(spreads, axis=0)
    usual = np.median(np.abs(medians - middle), axis=0) + width
    # A dimension that usually rests may well move once, as much as others do.
    usual = np.maximum(usual, width.max() / UNLIKE)
    shift = np.maximum(np.abs(medians - middle), spreads)
    away = (shift > UNLIKE * usual) & (shift > np.abs(middle) / 2)
    # What never changes within an episode, as a goal, may well be another one in each.
    away &= width > 0
    if not away.any() or away.any(1).mean() > FEW_EPISODES:
        return []
    episodes = tuple(int(episode) for episode in column.episodes[away.any(1)])
    d = int(np.argmax(away.sum(0)))
    odd = int(np.argmax(away[:, d]))
    return [
        Finding(
            WARNING,
            "unlike the others",
            column.feature,
            f"unlike the other episodes in {in_episodes(episodes)}: {column.dimensions[d]} is "
            f"{number(medians[odd, d])} ({number(low[odd, d])} to {number(high[odd, d])}) there, "
            f"elsewhere usually {number(middle[d])} (± {number(width[d] / 2)})",
            "values in other units, or from another zero, contradict the rest",
            "compare units and calibration; " + left_out(episodes, len(column.episodes)),
            column.names(away.any(0)),
            episodes,
        )
    ]
