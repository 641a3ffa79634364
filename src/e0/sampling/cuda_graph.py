"""A whole chunk, from pictures to actions, as one CUDA graph.

A graph replays the same kernels on the same memory, so that the CPU launches one thing instead of
thousands: inputs are copied into buffers that stay, the graph runs, results are copied out
(https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). There is one graph for every
signature of inputs: the shapes of pictures, vectors and prompt. Prompts are padded to a few
lengths, since those that tell the state in digits change theirs with it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from e0.finite import Drawn, accept
from e0.network.observation import Observation
from e0.objectives import ActionChunk, E0Objective
from e0.objectives.diffusion import ALWAYS, NEVER, noise_of_draws
from e0.objectives.interface import starting_noise
from e0.prefix import Prefix
from e0.sampling.sampler import FastSampler, say_once

WARM_UP = 3
MAXIMUM_GRAPHS = 8
"""Signatures that are kept, the last used ones."""
PROMPT_TOKENS = 16
"""Prompts are padded to a multiple of so many tokens."""

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
    the same buffers, and on a GPU the log says so. Nothing waits for the device but the look at a
    chunk before it is given.

    A graph cannot decide. So adaptive decoding has one that looks and one that samples several
    ways, `either`, and what the first says is read between them.
    """

    def __init__(self, sampler: FastSampler) -> None:
        self.sampler = sampler
        self.reason = self._no_graph()
        self._lock = threading.Lock()  # threads share the buffers
        self._recordings: OrderedDict[Signature, Recording] = OrderedDict()
        self._memory: Any = None  # of all graphs: they never run at the same time
        self.either = self._looking_and_sampling()
        if self.reason is not None and self._device.type == "cuda":
            say_once(f"chunks are sampled without a CUDA graph: {self.reason}")

    def sample(
        self,
        observation: Observation,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        prefix: Prefix | None = None,
    ) -> ActionChunk:
        """One chunk for each observation, see `Policy.sample`. The first one of a new signature
        takes a few seconds. Which steps are given is an input of the graph, so that a policy that
        was trained for it has one for all, also where none is."""
        if self.sampler.reason is not None or not self._takes_noise:
            return self.sampler.sample(observation, generator=generator, noise=noise, prefix=prefix)
        policy = self.sampler.policy
        prefix = policy.checked(prefix, observation.batch)
        if prefix is None and policy.given_clean:
            settings = policy.settings
            none = torch.empty(observation.batch, 0, settings.action_dim, device=self._device)
            prefix = Prefix.of_steps(none, settings.horizon)
        return self._sample(observation, generator, noise, prefix)

    def _sample(
        self,
        observation: Observation,
        generator: torch.Generator | None,
        noise: Tensor | None,
        prefix: Prefix | None,
    ) -> ActionChunk:
        """`sample` with a prefix that was checked."""
        if self.either is not None:
            return self._adapt(observation, generator, noise, prefix)
        start = getattr(self.sampler.objective, "start", "noise")
        noise = starting_noise(
            noise, self._noise_shape(observation), generator, self._device, start
        )
        with self._lock:
            drawn = self._draw(self._padded(observation), noise, prefix)
        return accept(drawn, observation, noise, self.sampler.policy)

    def warm_up(self, observation: Observation, prefix: Prefix | None = None) -> None:
        """Capture what chunks of such observations need, with a prefix if one is given, of however
        many steps; of prompts that tell the state, which changes their length, also those a little
        shorter and longer."""
        for part in self.either or (self,):
            for near in self._nearby(observation):
                generator = torch.Generator(self._device)
                part.sample(near, generator=generator, prefix=prefix)

    def _looking_and_sampling(self) -> tuple[GraphedSampler, GraphedSampler] | None:
        objective = self.sampler.objective
        if self.sampler.reason is not None or not isinstance(objective, E0Objective):
            return None
        if objective.decoding == "fixed" or objective.ambiguous in (ALWAYS, NEVER):
            return None
        look, sample = replace(objective, ambiguous=NEVER), replace(objective, ambiguous=ALWAYS)
        return (
            GraphedSampler(self.sampler.decoding(look)),
            GraphedSampler(self.sampler.decoding(sample)),
        )

    def _adapt(
        self,
        observation: Observation,
        generator: torch.Generator | None,
        noise: Tensor | None,
        prefix: Prefix | None,
    ) -> ActionChunk:
        """`E0Objective`'s adaptive decoding, by two samplers."""
        assert self.either is not None and isinstance(self.sampler.objective, E0Objective)
        look, sample = self.either
        zero = torch.zeros(look._noise_shape(observation), device=self._device)
        at_once = look._sample(observation, None, zero, prefix)
        assert at_once.ambiguity is not None and at_once.entropy is not None
        several = at_once.ambiguity >= self.sampler.objective.ambiguous
        if not several.any():
            return at_once
        shape = sample._noise_shape(observation)
        noise = noise_of_draws(noise, shape, generator, self._device)
        chunk = sample._sample(observation, None, noise, prefix)
        assert chunk.entropy is not None
        several = several[:, None, None]
        return chunk._replace(
            actions=torch.where(several, chunk.actions, at_once.actions),
            entropy=torch.where(several, chunk.entropy, at_once.entropy),
        )

    def _nearby(self, observation: Observation) -> Iterator[Observation]:
        yield observation
        network, words = self.sampler.network, observation.instruction
        if network.preset.state != "prompt" or network.language is None or words is None:
            return
        for change in (-PROMPT_TOKENS, PROMPT_TOKENS):
            if words.shape[1] + change > 0:
                other = F.pad(words, (0, change), value=network.language.padding)
                yield replace(observation, instruction=other)

    def _draw(self, observation: Observation, noise: Tensor, prefix: Prefix | None) -> Drawn:
        inputs = _inputs(observation, noise, prefix)
        signature = tuple((name, tensor.shape, tensor.dtype) for name, tensor in inputs.items())
        if signature not in self._recordings:
            if len(self._recordings) >= MAXIMUM_GRAPHS:
                self._recordings.popitem(last=False)
            self._recordings[signature] = self._record(observation, noise, prefix)
        self._recordings.move_to_end(signature)
        recording = self._recordings[signature]
        for name, tensor in inputs.items():
            recording.inputs[name].copy_(tensor, non_blocking=True)
        recording.run()
        return _copied(recording.result)

    def _padded(self, observation: Observation) -> Observation:
        """The observation with its instruction filled up; nothing looks at the padding."""
        language, words = self.sampler.network.language, observation.instruction
        if language is None or words is None:
            return observation
        unit = PROMPT_TOKENS * language.patch
        missing = -words.shape[1] % unit
        return replace(observation, instruction=F.pad(words, (0, missing), value=language.padding))

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
            return "this decoding draws random numbers on the way, or starts from none"
        if self._device.type != "cuda":
            return f"CUDA graphs need a CUDA device, the policy is on {self._device.type}"
        return None

    def _noise_shape(self, observation: Observation) -> tuple[int, ...]:
        settings = self.sampler.policy.settings
        batch, objective = observation.batch, cast(Any, self.sampler.objective)
        chunk = (settings.horizon, settings.action_dim, objective.input_width)
        if _samples_several(objective):
            return (batch, objective.decoding_draws, *chunk)
        return (batch, *chunk)

    # Also where chunks are asked for under inference mode: buffers must serve outside of it, too.
    @torch.inference_mode(False)
    @torch.no_grad()
    def _record(
        self, observation: Observation, noise: Tensor, prefix: Prefix | None = None
    ) -> Recording:
        """Buffers of this signature, and the graph over them if there can be one."""
        inputs = {
            name: tensor.detach().to(self._device, copy=True)
            for name, tensor in _inputs(observation, noise, prefix).items()
        }
        held = unflatten(inputs, observation)
        given = None if prefix is None else Prefix(inputs["given actions"], inputs["given"])

        def sample() -> Drawn:
            return self.sampler.draw(held, noise=inputs["noise"], prefix=given)

        if self.reason is None:
            with torch.cuda.device(self._device):
                captured = self._capture(sample)
            if captured is not None:
                graph, result = captured
                return Recording(inputs, graph.replay, result)
        return _eager(inputs, sample)

    def _capture(self, sample: Callable[[], Drawn]) -> tuple[torch.cuda.CUDAGraph, Drawn] | None:
        """A graph and where its results will lie; None, and a reason, if it cannot be captured."""
        stream, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(stream)
        with torch.cuda.stream(side):  # libraries choose kernels and reserve memory
            for _ in range(WARM_UP):
                sample()
        stream.wait_stream(side)
        if self._memory is None:
            self._memory = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on meanwhile: only this one's calls are captured.
            with torch.cuda.graph(graph, self._memory, capture_error_mode="thread_local"):
                result = sample()
        except RuntimeError as error:
            _tidy_up(stream, self._memory)
            self._memory = None
            self.reason = f"capture failed: {error}"
            say_once(f"chunks are sampled without a CUDA graph: {self.reason}")
            return None
        return graph, result


def _inputs(observation: Observation, noise: Tensor, prefix: Prefix | None) -> dict[str, Tensor]:
    """All that a chunk is made of, by a name that is theirs alone."""
    inputs = observation.tensors() | {"noise": noise}
    if prefix is not None:
        inputs |= {"given actions": prefix.actions, "given": prefix.mask}
    return inputs


def _samples_several(objective: Any) -> bool:
    return getattr(objective, "decoding", "fixed") == "adaptive" and objective.ambiguous != NEVER


def _tidy_up(stream: torch.cuda.Stream, memory: Any) -> None:
    """Undo what a capture that failed leaves behind, since PyTorch's `capture_end` raises before it
    does so: its stream, its memory, which still takes all allocations, and a generator that refuses
    to draw because it takes itself for captured."""
    torch.cuda.set_stream(stream)
    place = stream.device.index
    with suppress(RuntimeError):  # it may have failed before it took any
        torch._C._cuda_endAllocateToPool(place, memory)
        torch._C._cuda_releasePool(place, memory)
    generator = torch.cuda.default_generators[place]
    with suppress(RuntimeError):
        generator.graphsafe_set_state(generator.clone_state())


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
    ambiguity = None if chunk.ambiguity is None else chunk.ambiguity.clone()
    kept = chunk._replace(actions=chunk.actions.clone(), entropy=entropy, ambiguity=ambiguity)
    return Drawn(kept, drawn.finite.clone())
