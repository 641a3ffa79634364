"""The E0 policy in plain PyTorch: tokenizer, network and objective put together.

policy = Policy(PolicySettings(cameras=("front",), vectors={"state": 4}, action_dim=7))
policy.tokenizer.fit(actions)                       # (N, 7), in action units
policy.loss(observation, chunks, valid).mean().backward()
chunk = policy.sample(observation)                  # chunk.actions (B, H, 7), chunk.entropy
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from e0.finite import accept, draw_chunk, require_finite
from e0.heads import TokenHead
from e0.network.action_tokens import Grain, TokenLayout
from e0.network.policy_network import Observation, PolicyNetwork
from e0.network.presets import Preset, find_preset
from e0.objectives import (
    ActionChunk,
    AutoregressiveObjective,
    DFMObjective,
    E0Objective,
    FlowObjective,
    HybridObjective,
    MaskedObjective,
    MIPObjective,
    Objective,
    RegressionObjective,
    Sampling,
)
from e0.prefix import UNABLE, Prefix, draw_given, unable
from e0.tokens import ActionTokenizer

ObjectiveName = Literal[
    "e0", "flow", "hybrid", "masked", "dfm", "autoregressive", "regression", "mip"
]
SMALLEST_PICTURE = 16  # pixels
OBJECTIVES: tuple[str, ...] = get_args(ObjectiveName)


@dataclass(frozen=True)
class PolicySettings:
    """Everything that a policy's weights depend on, and its sampling defaults.

    cameras: names of the images; vectors: name and size of the normalized vector features.
    preset: a name of `e0.network.presets`, or sizes of your own. image_size: height and width that
    pictures are brought to, the preset's if None. token_grain: one action token for
    every `step`, or for every (step, `dimension`) as E0's authors have it.
    objective: see `e0.objectives`. head, mean_weight: of all that predict codes. embedding,
    schedule, time_grid, sampler, cooling, early_stop, decoding, decoding_draws: of e0. read_out: of
    e0 and dfm; under adaptive decoding, of samples. start: of e0 and flow, sampling from random
    `noise` or from `zero`.
    rtc_training_max_delay: the most first steps of a chunk that training gives, see `e0.prefix`.
    time_distribution: of e0, flow, hybrid and dfm, see `e0.training_times`. temperature: of e0,
    masked, dfm and autoregressive. confidence_noise, remask: of masked.
    regression_error: of regression, `absolute` or `squared`.
    """

    cameras: tuple[str, ...]
    vectors: Mapping[str, int]
    action_dim: int
    horizon: int = 8
    preset: str | Preset = "tiny"
    image_size: tuple[int, int] | None = None
    token_grain: Grain = "step"
    use_instruction: bool = True
    vocabulary_size: int = 256
    objective: str = "e0"
    head: str = "cosine"
    mean_weight: float = 1.0
    embedding: str = "ordinal"
    schedule: str = "linear"
    time_distribution: str = "beta"
    start: str = "noise"
    time_grid: str = "even"
    sampler: str = "ddim"
    temperature: float = 1.0
    cooling: bool = False
    read_out: str = "argmax"
    early_stop: bool = False
    decoding: str = "fixed"
    decoding_draws: int = 8
    confidence_noise: float = 1.0
    remask: bool = False
    regression_error: str = "absolute"
    denoising_steps: int = 4
    noise_draws: int = 4
    rtc_training_max_delay: int = 0

    def __post_init__(self) -> None:
        for name in ("action_dim", "horizon", "denoising_steps", "noise_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.rtc_training_max_delay < self.horizon:
            raise ValueError(
                f"rtc_training_max_delay must lie between 0 and {self.horizon - 1}, the steps of a "
                f"chunk less one to predict, got {self.rtc_training_max_delay}"
            )
        if self.rtc_training_max_delay and self.objective in UNABLE:
            raise unable(self.objective)


def make_objective(settings: PolicySettings, tokenizer: ActionTokenizer) -> Objective:
    """The objective named in the settings; ValueError lists the known ones."""
    head = TokenHead(tokenizer, settings.head, settings.mean_weight)
    match settings.objective:
        case "e0":
            return E0Objective(
                head,
                embedding_name=settings.embedding,
                schedule_name=settings.schedule,
                time_distribution=settings.time_distribution,
                start=settings.start,
                time_grid=settings.time_grid,
                sampler=settings.sampler,
                temperature=settings.temperature,
                cooling=settings.cooling,
                read_out=settings.read_out,
                early_stop=settings.early_stop,
                decoding=settings.decoding,
                decoding_draws=settings.decoding_draws,
            )
        case "flow":
            return FlowObjective(tokenizer, settings.time_distribution, settings.start)
        case "hybrid":
            return HybridObjective(head, settings.time_distribution)
        case "masked":
            return MaskedObjective(
                head, settings.temperature, settings.confidence_noise, settings.remask
            )
        case "dfm":
            return DFMObjective(
                head, settings.time_distribution, settings.temperature, settings.read_out
            )
        case "autoregressive":
            return AutoregressiveObjective(head, settings.temperature)
        case "regression":
            return RegressionObjective(tokenizer, settings.regression_error)
        case "mip":
            return MIPObjective(tokenizer)
    raise ValueError(f"unknown objective {settings.objective!r}; known: {', '.join(OBJECTIVES)}")


def network_sizes(settings: PolicySettings) -> Preset:
    """The preset with the settings' picture size. ValueError for a size that no network takes."""
    preset = find_preset(settings.preset)
    size: Any = settings.image_size
    if size is None:
        return preset
    if not isinstance(size, Sequence) or len(size) != 2 or min(size) < SMALLEST_PICTURE:
        raise ValueError(
            f"image_size must be a height and a width of at least {SMALLEST_PICTURE} pixels, got "
            f"{size}"
        )
    return replace(preset, image_size=(size[0], size[1]))


def token_layout(settings: PolicySettings, objective: Objective) -> TokenLayout:
    """The action tokens that an objective needs. ValueError for an unknown grain."""
    return TokenLayout(
        horizon=settings.horizon,
        action_dim=settings.action_dim,
        input_width=objective.input_width,
        output_width=objective.output_width,
        grain="dimension" if objective.causal else settings.token_grain,
        causal=objective.causal,
        flow_tokens=settings.objective == "hybrid" and settings.token_grain == "dimension",
    )


class Policy(nn.Module):
    """Observations -> action chunks. The tokenizer's codebooks are saved with the weights.

    tower: looks at pictures in place of the preset's tower, see `PolicyNetwork`.
    """

    def __init__(self, settings: PolicySettings, tower: nn.Module | None = None) -> None:
        super().__init__()
        self.settings = settings
        self.tokenizer = ActionTokenizer(settings.action_dim, settings.vocabulary_size)
        self.objective = make_objective(settings, self.tokenizer)
        self.network = PolicyNetwork(
            network_sizes(settings),
            token_layout(settings, self.objective),
            cameras=settings.cameras,
            vectors=settings.vectors,
            use_instruction=settings.use_instruction,
            tower=tower,
        )

    def loss(
        self,
        observation: Observation,
        actions: Tensor,
        valid: Tensor,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Loss of each observation (B,).

        actions: (B, H, D) in action units; valid: (B, H) bool, False where a step is padding;
        noise: (B, H, D, input width of the objective) to corrupt each chunk with, once, in place of
        the settings' draws of new noise. Raises ValueError for other shapes, for noise where steps
        are given (rtc_training_max_delay), of which it is not, and where an input is NaN or
        infinite (NonFiniteError): one batch of it would spoil all weights.
        """
        expected = (self.settings.horizon, self.settings.action_dim)
        if actions.shape[1:] != expected or valid.shape != actions.shape[:2]:
            raise ValueError(
                f"expected actions (B, {expected[0]}, {expected[1]}) and valid (B, {expected[0]}), "
                f"got {tuple(actions.shape)} and {tuple(valid.shape)}"
            )
        longest, given = self.settings.rtc_training_max_delay, None
        if longest and noise is not None:
            raise ValueError(
                "noise that belongs to a whole chunk, as reflow has it, says nothing about given "
                "steps: set rtc_training_max_delay to 0"
            )
        encoded = self.network.encode_prefix(observation)
        # Here, where the check of the actions waits for the device, too.
        require_finite(observation.tensors() | ({} if noise is None else {"noise": noise}))
        denoise = partial(self.network.denoise, encoded)
        draws = self.settings.noise_draws if noise is None else 1
        if longest:
            given = draw_given(valid.repeat_interleave(draws, dim=0), longest)
        return self.objective.loss(denoise, actions, valid, draws, noise, given)

    @torch.no_grad()
    def copy_prefix(self, other: Policy) -> None:
        """Encode observations as `other` does from now on, whatever its objective.

        Raises ValueError naming the first setting in which the two encode differently.
        """
        for name in ("preset", "image_size", "cameras", "vectors", "use_instruction"):
            own, given = getattr(self.settings, name), getattr(other.settings, name)
            if own != given:
                raise ValueError(
                    f"a prefix can only come from a policy with the same {name}: this one has "
                    f"{own}, the other has {given}"
                )
        tower, given_tower = self.network.tower, other.network.tower
        if str(tower) != str(given_tower):  # how a module prints tells what it is made of
            raise ValueError(
                f"a prefix can only come from a policy with the same vision tower: this one has "
                f"{_told(tower)}, the other has {_told(given_tower)}"
            )
        given = other.network.prefix_parameters()
        for name, parameter in self.network.prefix_parameters().items():
            parameter.copy_(given[name])
        if tower is not None and given_tower is not None:  # statistics of batch norms
            for own, buffer in zip(tower.buffers(), given_tower.buffers(), strict=True):
                own.copy_(buffer)

    @torch.no_grad()
    def sample(
        self,
        observation: Observation,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        keep_trace: bool = False,
        prefix: Prefix | None = None,
    ) -> ActionChunk:
        """Draw one chunk for each observation, with `steps` network evaluations (default: the
        settings' denoising_steps). Steps that a prefix gives come out exactly as they are; e0,
        flow and hybrid paint them in unless they were trained for it (rtc_training_max_delay), see
        `e0.prefix.Held`.

        Raises NonFiniteError (a ValueError) naming the inputs or weights that hold NaN or infinity,
        PrefixError (a ValueError) for a prefix that cannot be continued, and ValueError for other
        inputs than the network takes.
        """
        encoded = self.network.encode_prefix(observation)
        drawn = draw_chunk(
            self.objective,
            partial(self.network.denoise, encoded),
            observation,
            len(encoded.mask),
            self.settings.horizon,
            Sampling(
                self.settings.denoising_steps if steps is None else steps,
                generator,
                noise,
                keep_trace,
                self.checked(prefix, len(encoded.mask)),
                self.given_clean,
            ),
        )
        return accept(drawn, observation, noise, self)

    @property
    def given_clean(self) -> bool:
        """Whether it was trained to see given steps clean; others are painted in."""
        return self.settings.rtc_training_max_delay > 0

    def checked(self, prefix: Prefix | None, batch: int) -> Prefix | None:
        """A prefix for the chunks of so many observations; see `Prefix.checked`."""
        if prefix is None:
            return None
        shape = (batch, self.settings.horizon, self.settings.action_dim)
        return prefix.checked(shape, self.tokenizer.codebook.device)


def _told(tower: nn.Module | None) -> str:
    return "none" if tower is None else tower.extra_repr() or type(tower).__name__
