"""What the log says about the codebooks when a training starts."""

from __future__ import annotations

import logging
from typing import Any

from lerobot.utils.constants import ACTION

from e0.codebooks import UNBOUNDED
from e0.tokens import ActionTokenizer

logger = logging.getLogger(__name__)


def log_codebooks(tokenizer: ActionTokenizer, dataset_meta: Any | None = None) -> None:
    """One line for each action dimension of a tokenizer that was just fitted, and a warning for
    each that holds outliers, or whose largest gap between codes exceeds 1 % of its range."""
    names = dimension_names(dataset_meta, tokenizer.action_dim)
    for name, report in zip(names, tokenizer.reports, strict=True):
        logger.info("codebook of action %s: %s", name, report)
    bounds = tokenizer.bounds.T.tolist()
    for name, report, (low, high) in zip(names, tokenizer.reports, bounds, strict=True):
        if high < UNBOUNDED:
            logger.warning(
                "action %s holds outliers, values beyond %.4g to %.4g (its codes reach from %.4g "
                "to %.4g); if they are errors of the recording, remove them from the dataset",
                name,
                low,
                high,
                report.low,
                report.high,
            )
        if report.is_coarse:
            logger.warning(
                "codebook of action %s: actions between two codes that are %.2g apart, %.1f %% of "
                "the range, are rounded to one of them. If that is too coarse, raise "
                "--policy.vocabulary_size (now %d), set --policy.codebook=uniform, or remove "
                "outliers from the dataset",
                name,
                report.largest_gap,
                100 * report.gap_share,
                tokenizer.vocabulary_size,
            )


def dimension_names(dataset_meta: Any | None, action_dim: int) -> list[str]:
    """The names of the action's dimensions by the dataset's description, or their numbers.

    LeRobot's datasets name them in a list, or in groups as in {"motors": ["shoulder", "elbow"]}.
    """
    features = dataset_meta.features if dataset_meta is not None else {}
    names = features.get(ACTION, {}).get("names") or []
    if isinstance(names, dict):
        groups = [value if isinstance(value, list) else [key] for key, value in names.items()]
        names = [name for group in groups for name in group]
    if len(names) != action_dim:
        return [str(d) for d in range(action_dim)]
    return [str(name) for name in names]
