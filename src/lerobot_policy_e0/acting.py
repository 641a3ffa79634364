"""What a policy keeps while it acts: actions of the running episode, and samplers made ahead."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import torch
from torch import Tensor

from e0.objectives import ActionChunk
from e0.policy import Policy
from e0.sampling.cuda_graph import GraphedSampler
from e0.sampling.sampler import FastSampler
from e0.sampling.weight_watch import WeightWatch


class Episode(threading.local):
    """The rest of the last chunk, of each thread by itself: LeRobot evaluates several tasks with
    one policy in as many threads (`--env.max_parallel_tasks`).

    queue: actions (B, D) that were computed and not yet given. last_chunk: where they come from.
    returned: the chunks (B, H, D) that `predict_action_chunk` gave last, on the CPU. begun: whether
    this thread has reset the policy.
    """

    def __init__(self) -> None:
        self.queue: deque[Tensor] = deque()
        self.last_chunk: ActionChunk | None = None
        self.returned: Tensor | None = None
        self.begun = False

    def begin(self) -> None:
        """Forget everything of the last episode."""
        self.queue, self.last_chunk, self.returned, self.begun = deque(), None, None, True

    def require(self, batch_size: int | None) -> None:
        """Raise RuntimeError where no episode has begun in this thread, ValueError for another
        number of observations than that of the actions which are left (None: not known)."""
        if not self.begun:
            raise RuntimeError(
                "no episode has begun in this thread: call policy.reset() in the thread that acts. "
                "Each thread has an episode of its own, so that tasks do not get each other's "
                "actions"
            )
        if self.queue and batch_size not in (None, len(self.queue[0])):
            raise ValueError(
                f"the batch has {batch_size} observations, the running episode has "
                f"{len(self.queue[0])}: call policy.reset() before other episodes begin"
            )


class Samplers:
    """Fast samplers of a policy as its weights are now, one for each number of steps.

    They hold what was computed from the weights, so each chunk asks whether those have changed:
    see `WeightWatch` for what it costs and notices.
    """

    def __init__(self) -> None:
        self._made: dict[int | None, FastSampler | GraphedSampler] = {}
        self._watch: tuple[Policy, WeightWatch] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._made)

    def forget(self) -> None:
        """Make them anew when they are asked for next."""
        self._made, self._watch = {}, None

    def look(self) -> None:
        """Forget them if any weight has changed; what an episode's first chunk need not do."""
        watch = self._watch
        if watch is not None and watch[1].changed_anywhere():
            self.forget()

    def get(
        self, policy: Policy, steps: int | None, dtype: torch.dtype | None, compiled: bool
    ) -> FastSampler | GraphedSampler:
        """The sampler of this many steps (None: the policy's own); see `FastSampler`."""
        with self._lock:
            watch = self._watch
            if watch is None or watch[0] is not policy or watch[1].changed():
                self._made, self._watch = {}, (policy, WeightWatch(policy))
            if steps not in self._made:
                sampler = FastSampler(policy, steps=steps, dtype=dtype, compiled=compiled)
                on_gpu = policy.tokenizer.codebook.device.type == "cuda"
                self._made[steps] = GraphedSampler(sampler) if on_gpu else sampler
            return self._made[steps]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles make their own: graphs and compiled functions cannot be copied."""
        return Samplers, ()
