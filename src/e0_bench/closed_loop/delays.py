"""Chunks that come late: what a slow network or a distant server does to a policy, without a clock.

A chunk is asked for every s control steps (the execution horizon) and comes d steps later (the
delay); meanwhile the last one is executed further. Row 0 of a chunk is the step in which it was
asked for, so its rows d to d + s - 1 are executed. The first chunk is waited for: the robot stands.
As Kinetix' evaluation of real-time chunking does it (arXiv 2506.07339).

Shapes: H steps of a chunk, D action dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from e0_bench.closed_loop.delay_options import Delay, is_option
from e0_bench.statistics import Rate
from e0_bench.tables import table

SMOOTHNESS = ("seam", "change_at_seams", "change_elsewhere", "jerk")
FADING = 0.01  # of a chunk's weight in the mean with each younger one: ACT's
NOTE = (
    "Success in % with 95 % Wilson intervals. Seam: how far the new chunk's first own step lies "
    "from the old chunk's; change: from one executed step to the next, at seams and elsewhere; "
    "jerk: second difference of executed steps. Root mean squares over dimensions, in deviations "
    "of the data, where the policy tells them."
)


def described(control: str) -> str:
    """What a control does beside the delay: the chunking, if there is one, and what else changes,
    as in "given, blackout"."""
    delay = Delay.parse(control)
    others = [part for part in control.split() if not is_option(part)]
    return ", ".join([delay.chunking, *others] if delay is not None and delay.steps else others)


class LateChunks:
    """Executes chunks that come late.

    horizon: H. Raises ValueError if a chunk is executed before the last one ends that it follows.
    """

    def __init__(self, delay: Delay, execution_horizon: int, horizon: int) -> None:
        self.delay = delay
        self._every = execution_horizon
        if not delay.steps <= execution_horizon <= horizon - delay.steps:
            raise ValueError(
                f"a chunk of {horizon} steps that comes {delay.steps} late cannot be executed for "
                f"{execution_horizon}: the execution horizon must lie between {delay.steps} and "
                f"{horizon - delay.steps}"
            )
        self._step = 0
        self._chunk: Tensor | None = None
        self._predicted: list[Tensor] = []  # what is left of all chunks, the oldest first
        self._seams: list[Tensor] = []
        self._executed: list[Tensor] = []
        self._at_seams: list[int] = []

    @property
    def asks_next(self) -> bool:
        """Whether a chunk is asked for in the next step, so that its observation matters."""
        return self._step % self._every == 0

    def act(self, predict: Callable[[Tensor | None], Tensor]) -> Tensor:
        """The next action (D,). predict: from the steps that are executed meanwhile (d, D), under
        guided from all that is left (T, D), None for none or not to be told, to a chunk (H, D) for
        the present observation."""
        if self.asks_next:
            self._follow(predict)
        assert self._chunk is not None
        action = self._chunk[self._step % self._every]
        self._executed.append(action)
        self._step += 1
        return action

    def smoothness(self, deviation: Tensor) -> dict[str, float]:
        """Means over the episode, in deviations (D,); what never happened is left out."""

        def size(differences: Sequence[Tensor]) -> float:
            return fmean(float((x / deviation).square().mean().sqrt()) for x in differences)

        change = [b - a for a, b in pairwise(self._executed)]
        seams = {step for step in self._at_seams if step < len(self._executed)}
        sizes = {
            "seam": self._seams,
            "change_at_seams": [change[step - 1] for step in sorted(seams)],
            "change_elsewhere": [x for step, x in enumerate(change, 1) if step not in seams],
            "jerk": [b - a for a, b in pairwise(change)],
        }
        return {name: size(values) for name, values in sizes.items() if values}

    def _follow(self, predict: Callable[[Tensor | None], Tensor]) -> None:
        """Ask for a chunk; until it comes, the last one is executed further."""
        if self._chunk is None:
            self._chunk = predict(None)
            self._predicted = [self._chunk]
            return
        left = self._chunk[self._every :]
        meanwhile = left[: self.delay.steps]
        told = {"given": meanwhile, "wrong": -meanwhile, "guided": left}.get(self.delay.chunking)
        new = predict(told if self.delay.steps > 0 else None)
        left_of_all = (chunk[self._every :] for chunk in self._predicted)
        self._predicted = [*(chunk for chunk in left_of_all if len(chunk)), new]
        if len(left) > self.delay.steps:
            self._seams.append(new[self.delay.steps] - left[self.delay.steps])
        self._at_seams.append(self._step + self.delay.steps)
        new = _mean_of_chunks(self._predicted if self.delay.chunking == "ensemble" else [new])
        new[: self.delay.steps] = meanwhile
        if self.delay.chunking == "blend":
            overlap = len(left) - self.delay.steps
            share = torch.arange(1, overlap + 1)[:, None] / (overlap + 1)
            both = slice(self.delay.steps, len(left))
            new[both] = share * new[both] + (1 - share) * left[self.delay.steps :]
        self._chunk = new


def _mean_of_chunks(chunks: Sequence[Tensor]) -> Tensor:
    """Mean of chunks (H, D) that begin at the same step, the oldest first and heaviest, over those
    that reach a step; the last one reaches all."""
    total, weight = torch.zeros_like(chunks[-1]), torch.zeros(len(chunks[-1]), 1)
    for age, chunk in enumerate(chunks):
        share = math.exp(-FADING * age)
        total[: len(chunk)] += share * chunk
        weight[: len(chunk)] += share
    return total / weight


def delays_summary(
    episodes: Sequence[Any], policies: Sequence[str], tasks: Sequence[str], controls: Sequence[str]
) -> dict[str, Any]:
    """{"delays": rows} for each policy, task and control with a delay: its success with interval,
    and the means of what `LateChunks.smoothness` tells. Nothing without such controls."""
    rows = []
    for policy in policies:
        for task in tasks:
            for control in controls:
                if (delay := Delay.parse(control)) is None:
                    continue
                own = [
                    e for e in episodes if (e.policy, e.task, e.control) == (policy, task, control)
                ]
                rate = Rate(sum(e.success for e in own), len(own))
                low, high = rate.interval
                rows.append(
                    {"policy": policy, "task": task}
                    | vars(delay)
                    | {"chunking": described(control)}
                    | {"successes": rate.successes, "episodes": rate.episodes}
                    | {"rate": rate.share, "low": low, "high": high}
                    | _means(own)
                )
    return {"delays": rows} if rows else {}


def _means(episodes: Iterable[Any]) -> dict[str, float]:
    told = [episode.smoothness for episode in episodes if episode.smoothness]
    names = dict.fromkeys(name for values in told for name in values)
    return {name: fmean(v[name] for v in told if name in v) for name in names}


def delays_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    cells = [
        [
            row["policy"],
            row["task"],
            str(row["steps"]),
            str(row["execution_horizon"] or "own"),
            row["chunking"],
            f"{row['successes']}/{row['episodes']}, {100 * row['rate']:.0f} "
            f"({100 * row['low']:.0f}–{100 * row['high']:.0f})",
            *(f"{row[name]:.2f}" if name in row else "" for name in SMOOTHNESS),
        ]
        for row in rows
    ]
    head = ["policy", "task", "delay", "execution horizon", "chunking", "success"]
    return table([*head, *(name.replace("_", " ") for name in SMOOTHNESS)], cells)
