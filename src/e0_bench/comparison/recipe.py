"""A comparison of policies as a TOML file: what is collected, trained and measured.

[dataset]            tasks, episodes, seed; action_noise, hold_steps (of the expert); depth. Or the
                     root of a LeRobotDataset that is there already, from where the command is
                     given, and the tasks to measure
[environment]        type ("maniskill" if not given, or "libero"; of given demonstrations any type
                     of LeRobot's) and options of the environment, in collecting and in measuring
[training]           steps, batch_size and other flags of `lerobot-train`; with `seeds = [1, 2, 3]`
                     every policy is trained once with each, and called LABEL-SEED
[training.policy]    settings of `lerobot_policy_e0.E0Config` that all policies share
[pretraining]        optional: steps, and a table of policy settings. A policy of these, trained
                     first, gives all others the encoding of observations that they start with
                     (one for each seed); with `augmented = true` each starts from one of its own,
                     which was trained under its own augmentation
[corrections]        optional: episodes, seed, steps; rounds (1 if not given), policies (all). Each
                     training's policy begins so many episodes of each task, the expert ends them,
                     and the policy is trained on with these too, for so many steps; a policy that
                     is not named is trained on for as many with the demonstrations alone
[policies.LABEL]     settings in which this one differs
[held_out]           episodes, seed: demonstrations that nothing is trained on; of a given dataset
                     so many of its episodes, drawn by the seed
[benchmark]          episodes, seed, ...: settings of `e0 bench`
[decodings.LABEL]    optional, with [tuning]: ways to decode a policy, each a name and a table of
                     settings (`e0_bench.closed_loop.decodings`); a policy without any is decoded
                     by its own settings
[tuning]             episodes, seed: each policy is decoded in all of its ways there, and measured
                     in the one that was best
[told]               optional: policies that are measured once more while they are told how their
                     cameras were moved
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e0_bench.closed_loop.decodings import Decoding, make_decoding

SECTIONS_OF_TRAININGS = ("dataset", "environment", "training", "pretraining", "corrections")
SEEDS_FOR_EACH = 10  # seeds that are kept free for each episode: experts fail now and then
NOT_OF_LOOP = ("policy", "seeds")
AUGMENTATIONS = ("viewpoint_augmentation", "standard_augmentation")


class RecipeError(ValueError):
    """A recipe that cannot be carried out; the message names the place in the file."""


@dataclass(frozen=True)
class Training:
    """One training of a policy; its seed where there are several."""

    policy: str
    seed: int | None = None

    @property
    def label(self) -> str:
        """Names the checkpoint and its episodes."""
        return self.policy if self.seed is None else f"{self.policy}-{self.seed}"


@dataclass(frozen=True)
class Recipe:
    """The sections of a recipe; see the module's docstring."""

    dataset: dict[str, Any]
    environment: dict[str, Any]
    training: dict[str, Any]
    policies: dict[str, dict[str, Any]]
    held_out: dict[str, Any]
    benchmark: dict[str, Any]
    pretraining: dict[str, Any] | None = None
    corrections: dict[str, Any] | None = None
    decodings: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    tuning: dict[str, Any] | None = None
    told: dict[str, Any] | None = None

    def policy(self, label: str) -> dict[str, Any]:
        """All settings of a policy."""
        return self.training.get("policy", {}) | self.policies[label]

    def ways_to_decode(self, label: str) -> list[Decoding]:
        """The ways in which a policy is decoded to find the best."""
        ways = self.decodings.get(label, {"own": {}})
        return [make_decoding(name, settings) for name, settings in ways.items()]

    @property
    def pretrains_augmented(self) -> bool:
        """Whether every policy has a pretrained encoding of its own, under its augmentation."""
        return (self.pretraining or {}).get("augmented", False)

    def pretrained_directory(self, training: Training) -> Path:
        """Where in the output the encoding lies that this training starts from."""
        if self.pretrains_augmented:
            return Path("pretrained", training.label)
        return Path("pretrained", *([] if training.seed is None else [str(training.seed)]))

    def pretrained_policy(self, label: str) -> dict[str, Any]:
        """All settings of the policy that gives this one its encoding of observations."""
        own = self.policies[label] if self.pretrains_augmented else {}
        augmentation = {name: own[name] for name in AUGMENTATIONS if name in own}
        shared = self.training.get("policy", {}) | (self.pretraining or {}).get("policy", {})
        return shared | augmentation

    @property
    def rounds(self) -> int:
        """How often policies are corrected and trained on."""
        return 0 if self.corrections is None else self.corrections.get("rounds", 1)

    @property
    def corrected_policies(self) -> list[str]:
        """Those that are corrected; the others are trained on with demonstrations alone."""
        return list((self.corrections or {}).get("policies", self.policies))

    def corrections_of(self, number: int) -> dict[str, Any]:
        """What is collected in a round, counted from 1; the expert acts as in demonstrations."""
        wanted = self.corrections or {}
        first = wanted["seed"] + (number - 1) * SEEDS_FOR_EACH * most_of_a_task(wanted["episodes"])
        return self.dataset | {"episodes": wanted["episodes"], "seed": first}

    @property
    def trainings(self) -> list[Training]:
        """All of them, in the order in which they are done: seed by seed."""
        seeds = self.training.get("seeds", [None])
        return [Training(policy, seed) for seed in seeds for policy in self.policies]

    def loop(self, seed: int | None = None) -> dict[str, Any]:
        """The settings of the training loop, without the policy's."""
        settings = {name: value for name, value in self.training.items() if name not in NOT_OF_LOOP}
        return settings if seed is None else settings | {"seed": seed}


def require_keys(
    where: str,
    given: Mapping[str, Any],
    known: Iterable[str],
    required: Iterable[str] = (),
) -> None:
    """Raise RecipeError for keys of a section that are not known, and for required ones that it
    lacks. where: the section's name in the message."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise RecipeError(f"{where} has unknown {', '.join(unknown)}; known: {', '.join(known)}")
    missing = [name for name in required if name not in given]
    if missing:
        raise RecipeError(f"{where} lacks {', '.join(missing)}")


def most_of_a_task(episodes: int | list[int]) -> int:
    """Of one number for all tasks or one for each."""
    return max(episodes) if isinstance(episodes, list) else episodes
