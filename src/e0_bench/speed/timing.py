"""How long chunks and training steps take, stage by stage, beside LeRobot's pi-0 and the machine's
floor.

Everything is measured in turn in one process, because machines differ and are shared: a ratio
between neighbours says more than a number of milliseconds.

Shapes: B observations, P prefix tokens, T action tokens.
"""

from __future__ import annotations

import functools
import gc
import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from e0.network.policy_network import Observation
from e0.network.presets import PRESETS
from e0.policy import Policy, PolicySettings
from e0.precision import cast_in_place
from e0.sampling.cuda_graph import GraphedSampler
from e0.sampling.sampler import FastSampler
from e0_bench.speed.lerobot_peers import Kind, make_peer, peer_batch
from e0_bench.speed.prompts import prompts_of

HEIGHT, WIDTH = 480, 640
INSTRUCTION = "pick up the cube and put it to the goal"
DIMENSIONS = 7
STATE, STATE_SIZE = "observation.state", 8
OBSERVATIONS = 8
"""So many are seen in turn: where the prompt tells the state, its length changes with it."""


@dataclass(frozen=True)
class Case:
    """One thing to measure: a policy of this kind sampling chunks, or training."""

    preset: str
    cameras: int
    horizon: int
    steps: int = 10
    batch: int = 1
    vocabulary: int = 256
    grain: str = "step"

    @property
    def vectors(self) -> dict[str, int]:
        return {} if PRESETS[self.preset].state == "prompt" else {STATE: STATE_SIZE}


@dataclass(frozen=True)
class Machine:
    """Where it runs and how carefully it is measured."""

    device: torch.device
    dtype: torch.dtype
    runs: int
    warm_up: int = 3

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def variations(base: Case) -> list[Case]:
    """The case itself, and those that differ from it in one thing."""
    changes: list[dict[str, Any]] = [
        *({"steps": steps} for steps in (1, 4, 10)),
        {"batch": 8},
        {"vocabulary": 2048},
        {"grain": "dimension"},
    ]
    return list(dict.fromkeys([base, *(replace(base, **change) for change in changes)]))


def make_policy(case: Case, device: torch.device) -> Policy:
    """A policy with random weights, its codebooks fitted to random actions."""
    settings = PolicySettings(
        cameras=tuple(f"camera{index}" for index in range(case.cameras)),
        vectors=case.vectors,
        action_dim=DIMENSIONS,
        horizon=case.horizon,
        preset=case.preset,
        vocabulary_size=case.vocabulary,
        token_grain=case.grain,  # pyright: ignore[reportArgumentType]
        denoising_steps=case.steps,
        noise_draws=1,
    )
    torch.manual_seed(0)
    with torch.device(device):
        policy = Policy(settings).eval()
    policy.tokenizer.fit(torch.randn(4096, DIMENSIONS, device=device))
    return policy


def pictures(case: Case, device: torch.device) -> list[Tensor]:
    """What cameras deliver: 480 x 640, float in [0, 1]."""
    return [torch.rand(case.batch, 3, HEIGHT, WIDTH, device=device) for _ in range(case.cameras)]


def observe(policy: Policy, case: Case, images: list[Tensor], count: int = 1) -> list[Observation]:
    """Observations with the same pictures and different states, the prompts as the policy's own
    preprocessing writes them."""
    device, cameras = images[0].device, policy.settings.cameras
    prompts = prompts_of(policy.network.preset)
    generator = torch.Generator().manual_seed(0)
    observations = []
    for _ in range(count):
        state = {STATE: torch.rand(case.batch, STATE_SIZE, generator=generator) * 2 - 1}
        words = prompts.encode([INSTRUCTION] * case.batch, state).to(device)
        vectors = {name: v.to(device) for name, v in prompts.network_vectors(state).items()}
        images_of = dict(zip(cameras, images, strict=True))
        observations.append(Observation(images_of, vectors, words))
    return observations


def in_turn(methods: dict[str, Callable[[], Any]], machine: Machine) -> dict[str, dict[str, float]]:
    """Median and 95th percentile in milliseconds of each, taken in turn."""
    taken: dict[str, list[float]] = {name: [] for name in methods}
    for run in range(machine.warm_up + machine.runs):
        for name, method in methods.items():
            machine.wait()
            start = time.perf_counter()
            method()
            machine.wait()
            if run >= machine.warm_up:
                taken[name].append(1000 * (time.perf_counter() - start))
    return {
        name: {
            "median_ms": round(float(np.median(times)), 4),
            "p95_ms": round(float(np.percentile(times, 95)), 4),
            "runs": len(times),
        }
        for name, times in taken.items()
    }


def measure_chunks(
    case: Case, machine: Machine, peers: dict[str, tuple[Kind, bool]], compiled: bool = False
) -> list[dict[str, Any]]:
    """From pictures to actions: plain, fast, `compiled` too if asked for, and the peers
    (name -> kind, compiled)."""
    images = pictures(case, machine.device)
    before = _held(machine)
    policy = make_policy(case, machine.device)
    cast_in_place(policy.network, machine.dtype)
    weights = _held(machine) - before
    observations = observe(policy, case, images, min(OBSERVATIONS, machine.runs))
    samplers: dict[str, FastSampler | GraphedSampler] = {}

    def own(name: str) -> Callable[[], Any]:
        if name == "e0 plain":
            return _over(observations, lambda seen: policy.sample(seen, steps=case.steps))
        samplers[name] = _sampler(policy, case, machine, compiled=name == "e0 compiled")
        return _over(observations, samplers[name].sample)

    def other(kind: Kind, peer_compiled: bool) -> Callable[[], Any]:
        peer = make_peer(
            kind,
            case.preset,
            cameras=case.cameras,
            horizon=case.horizon,
            device=machine.device,
            dtype=_name(machine.dtype),
            compiled=peer_compiled,
        )
        peer.config.num_inference_steps = case.steps
        batches = [peer_batch(peer, images, _words(seen)) for seen in observations]
        return _over(batches, peer.predict_action_chunk)

    methods: dict[str, Callable[[], Any]] = {}
    memory: dict[str, float | None] = {}
    for name in ("e0 plain", "e0 fast", *(["e0 compiled"] if compiled else [])):
        methods[name], taken = _with_memory(machine, functools.partial(own, name))
        memory[name] = None if taken is None else round(weights + taken, 1)
    for name, peer in peers.items():
        methods[name], memory[name] = _with_memory(machine, functools.partial(other, *peer))
    times = in_turn(methods, machine)
    floor = floor_ms(policy, case, machine)
    rows = []
    for name, time_ in times.items():
        row = {"what": "chunk", "policy": name, **asdict(case), **time_}
        if name.startswith("e0"):
            row |= {
                "floor_ms": round(floor, 4),
                "times_floor": round(time_["median_ms"] / floor, 2),
            }
        if name in samplers and samplers[name].reason is not None:
            row["no_graph"] = samplers[name].reason
        rows.append(row | {"memory_mb": memory[name]})
    return rows


def _sampler(
    policy: Policy, case: Case, machine: Machine, compiled: bool = False
) -> FastSampler | GraphedSampler:
    fast = FastSampler(policy, steps=case.steps, compiled=compiled)
    return GraphedSampler(fast) if machine.device.type == "cuda" else fast


def _over(inputs: list[Any], method: Callable[[Any], Any]) -> Callable[[], Any]:
    """The method on the next of the inputs at each call, after it has seen each of them once: what
    is made ahead for a new length of prompt is no part of a chunk's time."""
    for given in inputs:
        method(given)
    following = itertools.cycle(inputs)
    return lambda: method(next(following))


def _words(observation: Observation) -> Tensor:
    assert observation.instruction is not None
    return observation.instruction


def measure_stages(case: Case, machine: Machine) -> list[dict[str, Any]]:
    """Vision, whole prefix, one denoising step and the read-out of a plain policy, and one step of
    the fast one."""
    policy = make_policy(case, machine.device)
    network = policy.network
    cast_in_place(network, machine.dtype)
    observation = observe(policy, case, pictures(case, machine.device))[0]
    denoiser = FastSampler(policy, steps=case.steps).denoiser
    assert denoiser is not None
    with torch.no_grad():
        prefix = network.encode_prefix(observation)
        shape = (case.batch, case.horizon, DIMENSIONS, policy.objective.input_width)
        noisy = torch.randn(shape, device=machine.device)
        start = denoiser.times[0].expand(case.batch)
        outputs = network.denoise(prefix, noisy, start)
        logits = policy.objective.head.logits()  # pyright: ignore[reportAttributeAccessIssue]
        methods: dict[str, Callable[[], Any]] = {
            "vision": lambda: network._embed_images(observation),
            "prefix": lambda: network.encode_prefix(observation),
            "step, plain": lambda: network.denoise(prefix, noisy, start),
            "step, fast": lambda: denoiser.bind(prefix)(noisy, start),
            "read-out": lambda: logits(outputs).argmax(-1),
        }
        times = in_turn(methods, machine)
    return [
        {"what": name, "policy": "e0", **asdict(case), **time_} for name, time_ in times.items()
    ]


def measure_training(
    case: Case, machine: Machine, name: str = "e0", kind: Kind | None = None
) -> list[dict[str, Any]]:
    """One training step (loss, gradients, AdamW) in samples per second, of ours or of the peer of
    this kind. Parameters and optimizer state are float32; on a GPU the arithmetic is bfloat16 by
    autocast."""

    def begun() -> Callable[[], None]:
        step = (
            training_step(case, machine)
            if kind is None
            else _peer_training(case, machine, pictures(case, machine.device), kind)
        )
        step()
        step()  # the optimizer's state is there now
        return step

    step, memory = _with_memory(machine, begun)
    time_ = in_turn({name: step}, machine)[name]
    row = {"what": "training step", "policy": name, **asdict(case), **time_}
    row["samples_per_second"] = round(1000 * case.batch / time_["median_ms"], 3)
    return [row | {"memory_mb": memory}]


def training_step(case: Case, machine: Machine) -> Callable[[], None]:
    """A training step (loss, gradients, AdamW) of a policy of ours."""
    policy = make_policy(case, machine.device).train()
    observation = observe(policy, case, pictures(case, machine.device))[0]
    actions = torch.randn(case.batch, case.horizon, DIMENSIONS, device=machine.device)
    valid = torch.ones(case.batch, case.horizon, dtype=torch.bool, device=machine.device)
    return _training_step(policy, machine, lambda: policy.loss(observation, actions, valid).mean())


def _peer_training(
    case: Case, machine: Machine, images: list[Tensor], kind: Kind
) -> Callable[[], None]:
    peer = make_peer(
        kind,
        case.preset,
        cameras=case.cameras,
        horizon=case.horizon,
        device=machine.device,
        dtype="float32",
    ).train()
    words = prompts_of(PRESETS[case.preset]).encode(
        [INSTRUCTION] * case.batch, {STATE: torch.zeros(case.batch, STATE_SIZE)}
    )
    batch = peer_batch(peer, images, words)
    return _training_step(peer, machine, lambda: peer.forward(batch)[0])


def _training_step(
    module: torch.nn.Module, machine: Machine, loss: Callable[[], Tensor]
) -> Callable[[], None]:
    used = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(used, lr=1e-5, fused=machine.device.type == "cuda")
    autocast = machine.dtype is not torch.float32

    def step() -> None:
        with torch.autocast(machine.device.type, torch.bfloat16, enabled=autocast):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def floor_ms(policy: Policy, case: Case, machine: Machine) -> float:
    """What a chunk takes at the least: each weight that is used is read once (those of the action
    tokens once a step), and each is multiplied with each of its tokens; whichever takes longer, of
    the prefix and of the steps."""
    network = policy.network
    bandwidth, arithmetic = machine_rates(machine.device, machine.dtype)
    prefix = sum(
        parameter.numel()
        for name, parameter in network.prefix_parameters().items()
        if not name.startswith("language.")  # a few rows of it are looked up
    )
    every = sum(parameter.numel() for parameter in network.parameters())
    words = 0 if network.language is None else sum(p.numel() for p in network.language.parameters())
    suffix = every - prefix - words
    alone = replace(case, batch=1)
    with torch.no_grad():
        seen = observe(policy, alone, pictures(alone, machine.device))[0]
        tokens = network.encode_prefix(seen).mask.shape[1]

    def least(weights: int, count: int) -> float:
        reading = weights * machine.dtype.itemsize / bandwidth
        return 1000 * max(reading, 2 * weights * count * case.batch / arithmetic)

    return least(prefix, tokens) + case.steps * least(suffix, network.layout.count)


_RATES: dict[tuple[str, torch.dtype], tuple[float, float]] = {}


def machine_rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes per second that are read, and operations per second of a large product, measured once
    in a process."""
    key = (str(device), dtype)
    if key not in _RATES:
        on_gpu = device.type == "cuda"
        machine = Machine(device, dtype, runs=7)
        size = 8192 if on_gpu else 1024
        one = torch.randn(size, size, device=device).to(dtype)
        product = in_turn({"product": lambda: one @ one}, machine)["product"]["median_ms"]
        much = torch.empty((1 << 30 if on_gpu else 1 << 26) // 4, device=device).zero_()
        read = in_turn({"read": much.sum}, machine)["read"]["median_ms"]
        _RATES[key] = (1000 * much.nbytes / read, 1000 * 2 * size**3 / product)
    return _RATES[key]


def _memory(machine: Machine) -> int:
    """Bytes of the GPU's memory that tensors hold now."""
    gc.collect()
    return torch.cuda.memory_allocated(machine.device) if machine.device.type == "cuda" else 0


def _held(machine: Machine) -> float:
    """Megabytes of the GPU that tensors hold now."""
    gc.collect()
    on_gpu = machine.device.type == "cuda"
    return torch.cuda.memory_allocated(machine.device) / 1e6 if on_gpu else 0.0


def _with_memory[Made](machine: Machine, make: Callable[[], Made]) -> tuple[Made, float | None]:
    """What is made, and the peak of the GPU's memory in MB that making it, first calls included,
    takes beyond what was held before; as reserved, which counts what graphs keep to themselves."""
    if machine.device.type != "cuda":
        return make(), None
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(machine.device)
    torch.cuda.reset_peak_memory_stats(machine.device)
    made = make()
    machine.wait()
    peak = torch.cuda.max_memory_reserved(machine.device)
    return made, round((peak - before) / 1e6, 1)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
