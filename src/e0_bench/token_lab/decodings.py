"""Ways to decode a trained policy of the token lab, which need no training of their own."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e0.policy import Policy, PolicySettings, make_objective
from e0_bench.closed_loop.decodings import read_decoding

OWN = ""
DECODINGS: dict[str, tuple[str, ...]] = {
    "e0": (
        "start=zero",
        "start=zero,read_out=median",
        "temperature=0",
        "temperature=0.3",
        "temperature=0.5",
        "temperature=0.7",
        "read_out=median",
        "read_out=mean",
        "read_out=window_mean",
        "sampler=ancestral",
        "sampler=ancestral,temperature=0.7",
    ),
    "flow": ("start=zero",),
    "masked": (
        "temperature=0",
        "temperature=0.3",
        "temperature=0.5",
        "temperature=0.7",
        "confidence_noise=0",
        "confidence_noise=4",
        "remask=true",
        "temperature=0,confidence_noise=0",
        "temperature=0.5,confidence_noise=0",
        "temperature=0.5,confidence_noise=4",
        "temperature=0.5,remask=true",
    ),
    "autoregressive": ("temperature=0", "temperature=0.5", "temperature=0.7"),
}
"""For each objective what a sweep measures beside the policy's own settings."""


@dataclass(frozen=True)
class Way:
    """A decoding to measure: SETTING=VALUE,... in place of a policy's own, or OWN for these.

    steps: the only number of denoising steps to measure it at, None for all. best_by: the metrics
    by which a sweep found it best there, None if it was not chosen by a sweep."""

    decoding: str = OWN
    steps: int | None = None
    best_by: tuple[str, ...] | None = None

    def at(self, steps: int | None) -> bool:
        """Whether it is measured at a number of denoising steps, None where that is fixed."""
        return self.steps is None or steps is None or self.steps == steps

    def made(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of results is one of this way; those of old files are of OWN."""
        best_by = row.get("best_by")
        return (
            row.get("decoding", OWN) == self.decoding
            and (None if best_by is None else tuple(best_by)) == self.best_by
            and self.at(row["denoising_steps"])
        )


def all_ways(objective: str) -> tuple[Way, ...]:
    """The own settings and all decodings of an objective."""
    return tuple(Way(decoding) for decoding in (OWN, *DECODINGS.get(objective, ())))


def decode_settings(settings: PolicySettings, decoding: str) -> PolicySettings:
    """A policy's settings with those of a decoding. Raises DecodingError (a ValueError) for one
    that the policy's objective does not look at."""
    return settings if decoding == OWN else read_decoding(f"{decoding}:{decoding}").of(settings)


def decoded(policy: Policy, decoding: str) -> Policy:
    """The same network and tokenizer, sampled in another way; the policy stays as it is."""
    other = copy.copy(policy)
    other.settings = decode_settings(policy.settings, decoding)
    other.objective = make_objective(other.settings, policy.tokenizer)
    return other
