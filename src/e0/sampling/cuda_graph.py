"""A whole chunk, from pictures to actions, as one CUDA graph.

A graph replays the same kernels on the same memory, so that the CPU launches one thing instead of
thousands: inputs are copied into buffers that stay, the graph runs, results are copied out
(https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). There is one graph for every
signature of inputs: the shapes of pictures, vectors and prompt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from e0.finite import Drawn, accept
from e0.network.observation import Observation
from e0.objectives import ActionChunk
from e0.sampling.sampler import FastSampler

WARM_UP = 3
MAXIMUM_GRAPHS = 8
"""Signatures that are kept: each graph holds the memory of a whole chunk."""

Signature = tuple[tuple[str, torch.Size, torch.dtype], ...]


@dataclass
class Recording:
    """Buffers that stay, and what to run on them to fill `result`."""

    inputs: dict[str, Tensor]
    run: Callable[[], None]
    result: Drawn


class GraphedSampler:
    """`FastSampler.sample` through CUDA graphs.

    reason: why there is no graph, None if there is; then chunks are sampled step by step, through
    the same buffers. Nothing waits for the device but the look at a chunk before it is given.
    """

    def __init__(self, sampler: FastSampler) -> None:
        self.sampler = sampler
        self.reason = self._no_graph()
        self._lock = threading.Lock()  # threads share the buffers
        self._recordings: dict[Signature, Recording] = {}

    def sample(
        self,
        observation: Observation,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> ActionChunk:
        """One chunk for each observation, see `Policy.sample`. The first one of a new signature
        takes a few seconds."""
        if self.sampler.reason is not None or not self._takes_noise:
            return self.sampler.sample(observation, generator=generator, noise=noise)
        if noise is None:
            noise = torch.randn(
                self._noise_shape(observation), device=self._device, generator=generator
            )
        with self._lock:
            drawn = self._draw(observation, noise)
        return accept(drawn, observation, noise, self.sampler.policy)

    def _draw(self, observation: Observation, noise: Tensor) -> Drawn:
        inputs = observation.tensors() | {"noise": noise}
        signature = tuple((name, tensor.shape, tensor.dtype) for name, tensor in inputs.items())
        recording = self._recordings.get(signature)
        if recording is None:
            if len(self._recordings) == MAXIMUM_GRAPHS:
                self._recordings.pop(next(iter(self._recordings)))
            recording = self._recordings[signature] = self._record(observation, noise)
        for name, tensor in inputs.items():
            recording.inputs[name].copy_(tensor, non_blocking=True)
        recording.run()
        return _copied(recording.result)

    @property
    def _device(self) -> torch.device:
        return self.sampler.policy.tokenizer.codebook.device

    @property
    def _takes_noise(self) -> bool:
        """Whether sampling starts from noise alone and draws nothing on the way."""
        settings = self.sampler.policy.settings
        if settings.objective == "e0":
            return settings.sampler == "ddim"
        return settings.objective in ("flow", "hybrid")

    def _no_graph(self) -> str | None:
        if self.sampler.reason is not None:
            return self.sampler.reason
        if not self._takes_noise:
            return "this objective draws random numbers while sampling, or starts from none"
        if self._device.type != "cuda":
            return f"CUDA graphs need a CUDA device, the policy is on {self._device.type}"
        return None

    def _noise_shape(self, observation: Observation) -> tuple[int, ...]:
        settings = self.sampler.policy.settings
        batch = len(next(iter(observation.tensors().values())))
        width = self.sampler.policy.objective.input_width
        return (batch, settings.horizon, settings.action_dim, width)

    def _record(self, observation: Observation, noise: Tensor) -> Recording:
        """Buffers of this signature, and the graph over them if there can be one."""
        inputs = {
            name: tensor.detach().to(self._device, copy=True)
            for name, tensor in (observation.tensors() | {"noise": noise}).items()
        }
        held = unflatten(inputs, observation)

        def sample() -> Drawn:
            return self.sampler.draw(held, noise=inputs["noise"])

        if self.reason is not None:
            return _eager(inputs, sample)
        with torch.cuda.device(self._device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries choose kernels and reserve memory
                for _ in range(WARM_UP):
                    sample()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads may go on meanwhile: only this one's calls are captured.
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    result = sample()
            except RuntimeError as error:
                self.reason = f"capture failed: {error}"
                return _eager(inputs, sample)
        return Recording(inputs, graph.replay, result)


def unflatten(tensors: dict[str, Tensor], like: Observation) -> Observation:
    """An observation like this one, of the tensors that `Observation.tensors` named."""
    present = like.present
    return Observation(
        {name: tensors[f"image {name}"] for name in like.images},
        {name: tensors[f"vector {name}"] for name in like.vectors},
        tensors.get("instruction"),
        None if present is None else {name: tensors[f"present {name}"] for name in present},
    )


def _eager(inputs: dict[str, Tensor], sample: Callable[[], Drawn]) -> Recording:
    """A recording that samples anew at each run."""
    recording: Any = Recording(inputs, lambda: None, sample())

    def run() -> None:
        recording.result = sample()

    recording.run = run
    return recording


def _copied(drawn: Drawn) -> Drawn:
    """A chunk of its own memory: the next replay overwrites the graph's."""
    chunk = drawn.chunk
    entropy = None if chunk.entropy is None else chunk.entropy.clone()
    kept = chunk._replace(actions=chunk.actions.clone(), entropy=entropy)
    return Drawn(kept, drawn.finite.clone())
