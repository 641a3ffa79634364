"""Every objective on the same small problem, with the shipped policy: how good are the samples?

A run trains one variant of the policy with one vocabulary and one seed, samples chunks with several
numbers of denoising steps and measures them (`e0_bench.token_lab.synthetic_chunks`). Network, data,
optimizer and number of training steps are the same for all. Two references need no training:
`bayes` denoises by the exact posterior, `exact` draws from the problem itself and shows what
encoding costs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from e0.diffusion import SCHEDULES, OneHotEmbedding, OrdinalEmbedding, sample
from e0.policy import Policy, PolicySettings
from e0.posterior import read_out
from e0.tokens import ActionTokenizer
from e0_bench.token_lab.bayes_denoiser import BayesDenoiser
from e0_bench.token_lab.decodings import OWN, Way, decoded
from e0_bench.token_lab.results import Row
from e0_bench.token_lab.settings import WITHOUT_STEPS, LabSettings, Run, policy_settings
from e0_bench.token_lab.synthetic_chunks import ChunkProblem, measure, tv_floor
from e0_bench.token_lab.training import Progress, observe, seeded, train

TOKENIZER_CHUNKS = 8192
SAMPLING_BATCH = 384


UNTRAINED: Row = dict.fromkeys(("train_steps", "steps_per_second", "loss", "chunks_per_second"))


def execute(run: Run, settings: LabSettings, progress: Progress) -> list[Row]:
    """Train and measure: the rows of a run. `progress` gets numbers of finished training steps.

    Leaves torch's random state as it was."""
    about = {
        "variant": run.variant,
        "objective": run.objective,
        "embedding": _embedding_name(run),
        "bins": run.bins,
        "seed": run.seed,
        "overrides": dict(run.overrides),
        "decoding": OWN,
        "best_by": None,
    }
    if not run.trains:
        return [about | row for row in MEASURES[run.objective](run, settings)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        policy = Policy(policy_settings(run, settings.problem))
        _fit_tokenizer(policy.tokenizer, settings.problem)
        training = train(policy, run, settings, progress)
    return [about | training | row for row in _measure_policy(policy.eval(), run, settings)]


def _embedding_name(run: Run) -> str | None:
    if run.objective not in ("e0", "bayes"):
        return None
    return run.overrides.get("embedding", PolicySettings.embedding)


def _fit_tokenizer(tokenizer: ActionTokenizer, problem: ChunkProblem) -> ActionTokenizer:
    """The same data whatever the seed of the run, so that codebooks are equal."""
    generator = seeded(problem.seed, "tokenizer")
    contexts = problem.sample_contexts(TOKENIZER_CHUNKS, generator)
    return tokenizer.fit(problem.sample(contexts, generator).flatten(0, 1), "uniform")


def _measure_policy(policy: Policy, run: Run, settings: LabSettings) -> Iterator[Row]:
    for steps in (None,) if run.objective in WITHOUT_STEPS else settings.denoising_steps:
        for way in run.ways:
            if way.at(steps):
                yield _measure_way(policy, way, steps, run.seed, settings)


def _measure_way(
    policy: Policy, way: Way, steps: int | None, seed: int, settings: LabSettings
) -> Row:
    """Every way starts from the same random numbers."""
    policy = decoded(policy, way.decoding)
    contexts = settings.problem.evaluation_contexts(settings.evaluation_contexts)
    repeated = contexts.repeat_interleave(settings.chunks, 0)
    generator = seeded(seed, "sampling")
    start = time.perf_counter()
    drawn = [
        policy.sample(observe(batch), steps=steps, generator=generator)
        for batch in repeated.split(SAMPLING_BATCH)
    ]
    seconds = time.perf_counter() - start
    chunks = torch.cat([chunk.actions for chunk in drawn])
    taken = max(chunk.steps_taken for chunk in drawn)
    return _quality(settings, contexts, chunks) | {
        "decoding": way.decoding,
        "best_by": None if way.best_by is None else list(way.best_by),
        "denoising_steps": taken if steps is None else steps,
        "steps_taken": taken,
        "chunks_per_second": len(chunks) / seconds,
    }


def _measure_bayes(run: Run, settings: LabSettings) -> Iterator[Row]:
    """The sampler of e0 with the exact posterior in the network's place."""
    assert run.bins is not None
    problem, schedule = settings.problem, SCHEDULES["linear"]
    tokenizer = _fit_tokenizer(ActionTokenizer(problem.action_dim, run.bins), problem)
    ordinal = run.overrides["embedding"] == "ordinal"
    embedding = OrdinalEmbedding(tokenizer) if ordinal else OneHotEmbedding(run.bins)
    contexts = problem.evaluation_contexts(settings.evaluation_contexts)
    shape = (settings.chunks, problem.horizon, problem.action_dim)
    generators = {k: seeded(run.seed, "sampling") for k in settings.denoising_steps}
    drawn: dict[int, list[Tensor]] = {k: [] for k in settings.denoising_steps}
    for context in contexts:
        denoise = BayesDenoiser(problem, context, tokenizer, embedding, schedule)
        for k, generator in generators.items():
            logits = sample(
                denoise, embedding, shape, schedule=schedule, steps=k, generator=generator
            ).logits
            drawn[k].append(read_out(logits, tokenizer.codebook))
    for k, chunks in drawn.items():
        quality = _quality(settings, contexts, torch.cat(chunks))
        yield UNTRAINED | quality | {"denoising_steps": k, "steps_taken": k}


def _measure_exact(run: Run, settings: LabSettings) -> Iterator[Row]:
    """Chunks of the problem itself, through the tokenizer and back."""
    assert run.bins is not None
    problem = settings.problem
    contexts = problem.evaluation_contexts(settings.evaluation_contexts)
    tokenizer = _fit_tokenizer(ActionTokenizer(problem.action_dim, run.bins), problem)
    repeated = contexts.repeat_interleave(settings.chunks, 0)
    chunks = problem.sample(repeated, seeded(run.seed, "sampling"))
    chunks = tokenizer.decode(tokenizer.encode(chunks))
    without_steps = {"denoising_steps": None, "steps_taken": None}
    yield UNTRAINED | _quality(settings, contexts, chunks) | without_steps


MEASURES = {"bayes": _measure_bayes, "exact": _measure_exact}  # objectives that are references


def _quality(settings: LabSettings, contexts: Tensor, chunks: Tensor) -> Row:
    problem = settings.problem
    found = measure(problem, contexts, chunks.unflatten(0, (len(contexts), settings.chunks)))
    return found._asdict() | {"tv_floor": tv_floor(problem, contexts, settings.chunks)}
