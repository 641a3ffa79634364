"""Every objective on the same small problem, with the shipped policy: how good are the samples?

A run trains one variant of the policy with one vocabulary and one seed, samples chunks with several
numbers of denoising steps and measures them (`e0.bench.synthetic_chunks`). Network, data, optimizer
and number of training steps are the same for all. Two references need no training: `bayes` denoises
by the exact posterior, `exact` draws from the problem itself and shows what encoding costs.

The results file is a JSON object: `settings`, and `rows`, one for each run and number of steps.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e0.bench.bayes_denoiser import BayesDenoiser
from e0.bench.files import write_json
from e0.bench.synthetic_chunks import ChunkProblem, measure, tv_floor
from e0.bench.token_lab_training import Progress, observe, seeded, train
from e0.diffusion import SCHEDULES, OneHotEmbedding, OrdinalEmbedding, read_out, sample
from e0.policy import Policy, PolicySettings, make_objective
from e0.tokens import ActionTokenizer

OBJECTIVES: dict[str, dict[str, Any]] = {
    "e0 ordinal": {"objective": "e0", "embedding": "ordinal"},
    "e0 one_hot": {"objective": "e0", "embedding": "one_hot"},
    "e0 ordinal, reflow": {"objective": "e0", "embedding": "ordinal", "reflow": 0.5},
    "e0 one_hot, reflow": {"objective": "e0", "embedding": "one_hot", "reflow": 0.5},
    "flow, reflow": {"objective": "flow", "reflow": 0.5},
    "hybrid": {"objective": "hybrid"},
    "flow": {"objective": "flow"},
    "masked": {"objective": "masked"},
    "autoregressive": {"objective": "autoregressive"},
    "regression": {"objective": "regression"},
}
REFERENCES: dict[str, dict[str, Any]] = {
    "bayes ordinal": {"objective": "bayes", "embedding": "ordinal"},
    "bayes one_hot": {"objective": "bayes", "embedding": "one_hot"},
    "exact": {"objective": "exact"},
}
WITHOUT_VOCABULARY = ("flow", "regression")
WITHOUT_STEPS = ("autoregressive", "regression")  # they fix the number of evaluations themselves
FIXED_BY_PROBLEM = ("cameras", "vectors", "action_dim", "horizon", "use_instruction")
TOKENIZER_CHUNKS = 8192
SAMPLING_BATCH = 384

Row = dict[str, Any]

UNTRAINED: Row = dict.fromkeys(("train_steps", "steps_per_second", "loss", "chunks_per_second"))


class OtherSettingsError(ValueError):
    """The results file was made with other settings."""


class UnknownVariantError(ValueError):
    """A variant has an unknown name or setting."""


@dataclass(frozen=True)
class LabSettings:
    """What all rows of a results file have in common.

    evaluation_contexts, chunks: contexts that are sampled in, and chunks in each of them.
    """

    problem: ChunkProblem = field(default_factory=ChunkProblem)
    train_steps: int = 1200
    batch_size: int = 64
    learning_rate: float = 2e-3
    denoising_steps: tuple[int, ...] = (1, 2, 4, 10)
    evaluation_contexts: int = 32
    chunks: int = 48

    def as_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(asdict(self)))


@dataclass(frozen=True)
class Run:
    """One variant (settings of the policy by name) with one vocabulary size and one seed.

    overrides: also `reflow`, the share of the training steps that come last and learn from the
    policy's own pairs (`e0.reflow`). bins: None where the objective has no vocabulary."""

    variant: str
    overrides: Mapping[str, Any]
    bins: int | None
    seed: int

    @property
    def objective(self) -> str:
        return self.overrides["objective"]

    @property
    def reflow(self) -> float:
        return self.overrides.get("reflow", 0.0)

    @property
    def trains(self) -> bool:
        return self.objective not in MEASURES

    def __str__(self) -> str:
        vocabulary = "" if self.bins is None else f", {self.bins} bins"
        return f"{self.variant}{vocabulary}, seed {self.seed}"


def parse_variant(text: str) -> tuple[str, dict[str, Any]]:
    """ "name:key=value,key=value" to the name and the values of `PolicySettings` that it changes.

    Raises UnknownVariantError for other text, and for a setting that does not exist, that the
    problem fixes, or whose value has another type."""
    name, colon, assignments = text.partition(":")
    if not name or not colon:
        raise UnknownVariantError(f"expected name:key=value,key=value, got {text!r}")
    kinds = {f.name: f.type for f in fields(PolicySettings) if f.name not in FIXED_BY_PROBLEM}
    kinds["reflow"] = "float"
    overrides: dict[str, Any] = {"objective": "e0"}
    for assignment in assignments.split(","):
        key, _, value = assignment.partition("=")
        if key not in kinds:
            raise UnknownVariantError(
                f"variant {name!r} sets {key!r}; known settings: {', '.join(kinds)}"
            )
        overrides[key] = _convert(value, str(kinds[key]), f"{name!r}: {key}")
    return name, overrides


def _convert(value: str, kind: str, what: str) -> Any:
    try:
        if kind == "bool":
            return {"true": True, "false": False}[value.lower()]
        return {"int": int, "float": float, "str": str}[kind](value)
    except (KeyError, ValueError):
        raise UnknownVariantError(f"{what} must be a {kind}, got {value!r}") from None


def plan_runs(
    variants: Mapping[str, Mapping[str, Any]], bins: Sequence[int], seeds: Sequence[int]
) -> list[Run]:
    """All runs: every seed once before any twice, so that an interrupted lab compares all variants.

    Raises ValueError for settings that no policy can be made of."""
    runs = []
    for seed in seeds:
        for name, overrides in variants.items():
            own_bins: Sequence[int | None] = bins
            if overrides["objective"] in WITHOUT_VOCABULARY:
                own_bins = [None]
            elif "vocabulary_size" in overrides:
                own_bins = [overrides["vocabulary_size"]]
            runs += [Run(name, overrides, size, seed) for size in own_bins]
    for run in runs:
        if run.trains:
            settings = policy_settings(run, ChunkProblem())
            make_objective(settings, ActionTokenizer(settings.action_dim, settings.vocabulary_size))
    return runs


def policy_settings(run: Run, problem: ChunkProblem) -> PolicySettings:
    """The policy of a run. Each observation gets one noise draw, as in training from scratch."""
    own = {name: value for name, value in run.overrides.items() if name != "reflow"}
    values: dict[str, Any] = {"preset": "tiny", "noise_draws": 1, **own}
    if run.bins is not None:
        values["vocabulary_size"] = run.bins
    return PolicySettings(
        cameras=(),
        vectors={"context": problem.context_dim},
        action_dim=problem.action_dim,
        horizon=problem.horizon,
        use_instruction=False,
        **values,
    )


class ResultsFile:
    """The rows measured so far; `add` writes the file anew, whole or not at all.

    Raises OtherSettingsError if the file holds rows of other settings or of a variant that has the
    same name but other values."""

    def __init__(self, path: Path, settings: LabSettings) -> None:
        self.path = path
        self.settings = settings.as_json()
        self.rows: list[Row] = []
        if path.exists():
            stored = json.loads(path.read_text())
            if stored["settings"] != self.settings:
                raise OtherSettingsError(
                    f"{path} was made with {_differences(stored['settings'], self.settings)}: "
                    "give these, or another file"
                )
            self.rows = stored["rows"]

    def missing(self, runs: Sequence[Run]) -> list[Run]:
        """The runs that the file does not hold yet."""
        for run in runs:
            for row in self.of(run):
                if row["overrides"] != run.overrides:
                    raise OtherSettingsError(
                        f"{self.path} holds {run} with {row['overrides']}, not "
                        f"{dict(run.overrides)}: give the variant another name, or another file"
                    )
        return [run for run in runs if not self.of(run)]

    def of(self, run: Run) -> list[Row]:
        """The rows of a run, empty if it is not finished."""
        key = run.variant, run.bins, run.seed
        return [row for row in self.rows if (row["variant"], row["bins"], row["seed"]) == key]

    def add(self, rows: Sequence[Row]) -> None:
        self.rows.extend(rows)
        write_json(self.path, {"settings": self.settings, "rows": self.rows})


def _differences(stored: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    names = [name for name in {**own, **stored} if stored.get(name) != own.get(name)]
    return ", ".join(f"{name} {stored.get(name)} instead of {own.get(name)}" for name in names)


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
    problem = settings.problem
    contexts = problem.evaluation_contexts(settings.evaluation_contexts)
    repeated = contexts.repeat_interleave(settings.chunks, 0)
    for steps in (None,) if run.objective in WITHOUT_STEPS else settings.denoising_steps:
        generator = seeded(run.seed, "sampling")
        start = time.perf_counter()
        drawn = [
            policy.sample(observe(batch), steps=steps, generator=generator)
            for batch in repeated.split(SAMPLING_BATCH)
        ]
        seconds = time.perf_counter() - start
        chunks = torch.cat([chunk.actions for chunk in drawn])
        taken = max(chunk.steps_taken for chunk in drawn)
        yield _quality(settings, contexts, chunks) | {
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
