"""What is trained and measured in the token lab: the variants of the policy and their runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from e0.policy import PolicySettings, make_objective
from e0.tokens import ActionTokenizer
from e0_bench.token_lab.decodings import Way
from e0_bench.token_lab.synthetic_chunks import ChunkProblem

OBJECTIVES: dict[str, dict[str, Any]] = {
    "e0 ordinal": {"objective": "e0", "embedding": "ordinal"},
    "e0 one_hot": {"objective": "e0", "embedding": "one_hot"},
    "e0 ordinal, reflow": {"objective": "e0", "embedding": "ordinal", "reflow": 0.5},
    "e0 one_hot, reflow": {"objective": "e0", "embedding": "one_hot", "reflow": 0.5},
    "flow, reflow": {"objective": "flow", "reflow": 0.5},
    "hybrid": {"objective": "hybrid"},
    "flow": {"objective": "flow"},
    "masked": {"objective": "masked"},
    "dfm": {"objective": "dfm"},
    "autoregressive": {"objective": "autoregressive"},
    "regression": {"objective": "regression"},
    "mip": {"objective": "mip"},
}
REFERENCES: dict[str, dict[str, Any]] = {
    "bayes ordinal": {"objective": "bayes", "embedding": "ordinal"},
    "bayes one_hot": {"objective": "bayes", "embedding": "one_hot"},
    "exact": {"objective": "exact"},
}
UNTRAINED_OBJECTIVES = tuple({r["objective"] for r in REFERENCES.values()})
WITHOUT_VOCABULARY = ("flow", "regression", "mip")
WITHOUT_STEPS = ("autoregressive", "regression", "mip")
"""They fix the number of evaluations themselves."""
FIXED_BY_PROBLEM = ("cameras", "vectors", "action_dim", "horizon", "use_instruction")


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
    policy's own pairs (`e0.reflow`). bins: None where the objective has no vocabulary. ways: how
    chunks are sampled, all from the same trained weights."""

    variant: str
    overrides: Mapping[str, Any]
    bins: int | None
    seed: int
    ways: tuple[Way, ...] = (Way(),)

    @property
    def objective(self) -> str:
        return self.overrides["objective"]

    @property
    def reflow(self) -> float:
        return self.overrides.get("reflow", 0.0)

    @property
    def trains(self) -> bool:
        return self.objective not in UNTRAINED_OBJECTIVES

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
