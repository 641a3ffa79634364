"""Real-time chunking as LeRobot drives it: the next chunk is made while the last one is executed.

Its engine (`lerobot.rollout.inference.rtc`) hands over what is left of the last chunk, and how many
of these steps it expects to execute until the new chunk is there. Row 0 of both is the next action.
The new chunk holds these steps, too; the engine drops as many as it took.

What the engine hands over is not what a policy may rely on: it fills the rows up to
`execution_horizon` with zeros (LeRobot 0.6) or with the last row (after it), also where nothing is
left; and since it never forgets the slowest chunk, such as the first one, the number of steps only
grows. Zeros that are taken for steps would be executed.

Shapes: B observations, T rows of the last chunk, H steps of a chunk, D action dimensions.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from e0.objectives import ActionChunk
from e0.policy import Policy
from e0.prefix import PAINTED, UNABLE, Prefix, PrefixError
from lerobot_policy_e0.acting import Episode
from lerobot_policy_e0.configuration_e0 import E0Config

logger = logging.getLogger(__name__)


class RealTimeChunking:
    """The part of `E0Policy` that continues chunks."""

    config: E0Config
    model: Policy
    predict: Callable[..., ActionChunk]
    _episode: Episode

    def supports_rtc(self) -> bool:
        """Whether chunks can continue given steps; LeRobot asks before it starts its engine."""
        return self.model.settings.objective not in UNABLE

    def init_rtc_processor(self) -> None:
        """LeRobot calls this once, when its engine will drive the policy, and before the policy is
        where it will act. There is no processor, since nothing is guided: says what will happen."""
        settings, longest = self.model.settings, self.longest_delay
        if self.model.given_clean or settings.objective == "autoregressive":
            logger.info("real-time chunking of up to %d steps of %d", longest, settings.horizon)
            return
        chooses = settings.objective == "e0" and settings.decoding == "adaptive"
        painted = settings.objective in PAINTED and not chooses
        useless = painted and settings.denoising_steps == 1
        logger.warning(
            "real-time chunking of up to %d steps of %d by a policy that was not trained for it "
            "(rtc_training_max_delay)%s",
            longest,
            settings.horizon,
            ": at denoising_steps=1 it will not see them" if useless else "",
        )

    # LeRobot would compile the whole method (`--use_torch_compile`), and with it what is made
    # ahead; what is worth compiling compiles itself.
    @torch.compiler.disable
    def predict_action_chunk(
        self,
        batch: dict[str, Any],
        *,
        inference_delay: int = 0,
        prev_chunk_left_over: Tensor | None = None,
        execution_horizon: int | None = None,
        **options: Any,
    ) -> Tensor:
        """A whole chunk (B, H, D) in action units. `noise` fixes where denoising starts.

        prev_chunk_left_over: what is left of the last chunk, (B, T, D), or (T, D) of a single
        observation; its first `inference_delay` steps will have been executed when this chunk comes
        and are its first ones, at most as many as the policy was trained for, or half a chunk.
        Rows that only fill it up are none: see `real_steps`. execution_horizon is the number of
        rows that the engine hands over; all that matters of it is in them. Who knows the steps
        exactly gives a `prefix` in place of all three.

        Raises PrefixError for a negative delay, rows of another shape, NaN or infinity in a step,
        and rows beside a prefix.
        """
        if inference_delay < 0:
            raise PrefixError(f"inference_delay must not be negative, got {inference_delay}")
        if prev_chunk_left_over is not None and options.get("prefix") is not None:
            raise PrefixError("give either a prefix or prev_chunk_left_over, not both")
        if prev_chunk_left_over is not None and self._rtc_enabled is not False:
            if inference_delay > self.longest_delay:
                _warn_of_delay(inference_delay, self.longest_delay)
            steps = min(inference_delay, self.longest_delay)
            last, horizon = self._episode.returned, self.model.settings.horizon
            if steps > 0 or self.supports_rtc():
                options["prefix"] = committed(prev_chunk_left_over, steps, horizon, last)
        actions = self.predict(batch, **options).actions
        self._episode.returned = actions.detach().cpu().clone()
        return actions

    def nothing_given(self, count: int) -> Prefix | None:
        """A prefix of no steps where LeRobot's engine drives the policy: chunks with and without
        given steps then come from the same CUDA graph. None elsewhere."""
        if not self._rtc_enabled or not self.supports_rtc():
            return None
        settings = self.model.settings
        return Prefix.of_steps(torch.empty(count, 0, settings.action_dim), settings.horizon)

    @property
    def longest_delay(self) -> int:
        """The most steps that LeRobot's engine gives: as many as were trained, or half a chunk."""
        settings = self.model.settings
        return settings.rtc_training_max_delay or settings.horizon // 2

    @property
    def _rtc_enabled(self) -> bool | None:
        """What LeRobot's engine has put into the configuration; None without it. Its schedule,
        weight and mode are of guidance, which is not used."""
        config = getattr(self.config, "rtc_config", None)
        return None if config is None else bool(config.enabled)


def committed(left_over: Tensor, delay: int, horizon: int, last: Tensor | None) -> Prefix:
    """The first `delay` steps of what is left (B, T, D) or (T, D), or as many as there really are;
    last: the chunks (B, H, D) that were returned before, if any were.

    Raises PrefixError for another number of axes.
    """
    left = left_over.detach().to("cpu", torch.float32)
    left = left[None] if left.ndim == 2 else left
    if left.ndim != 3:
        raise PrefixError(
            f"prev_chunk_left_over must have shape (T, D) or (B, T, D), got {tuple(left.shape)}"
        )
    before = [None] * len(left) if last is None or len(last) != len(left) else list(last)
    actions = left.new_zeros(len(left), horizon, left.shape[-1])
    mask = torch.zeros(len(left), horizon, dtype=torch.bool)
    for row, (rows, chunk) in enumerate(zip(left, before, strict=True)):
        count = min(delay, real_steps(rows, chunk), horizon - 1)
        actions[row, :count], mask[row, :count] = rows[:count], True
    return Prefix(actions, mask)


def real_steps(rows: Tensor, last: Tensor | None) -> int:
    """How many of the rows (T, D) are steps of a chunk: all that equal the end of the last chunk
    (H, D), or a piece of it, if nothing but filling follows. Of rows that come from elsewhere,
    all but zeros at the end and, before them, all but the first of equal ones."""
    if last is not None:
        for begun in range(len(last) + 1):
            piece = last[begun:][: len(rows)]
            if rows[: len(piece)].equal(piece) and _only_fills(rows, len(piece)):
                return len(piece)
    some = rows.any(-1).nonzero()
    count = int(some[-1]) + 1 if len(some) else 0
    while count > 1 and rows[count - 1].equal(rows[count - 2]):
        count -= 1
    return count


def _only_fills(rows: Tensor, count: int) -> bool:
    """Whether the rows after the first ones are zero, or repeat the last of these."""
    rest = rows[count:]
    return not rest.any() or (count > 0 and bool((rest == rows[count - 1]).all()))


@functools.cache
def _warn_of_delay(delay: int, longest: int) -> None:
    logger.warning(
        "a chunk takes %d steps to come, of which this policy continues %d: expect jumps. Make "
        "chunks faster, or train with a larger rtc_training_max_delay",
        delay,
        longest,
    )
