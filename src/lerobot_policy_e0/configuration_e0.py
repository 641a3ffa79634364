"""LeRobot configuration of an E0 policy: every field is a `--policy.NAME=VALUE`."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, fields
from pathlib import Path

from lerobot.configs import FeatureType, NormalizationMode, PreTrainedConfig
from lerobot.optim import (
    AdamWConfig,
    CosineDecayWithWarmupSchedulerConfig,
    OptimizerConfig,
)

from e0.codebooks import CODEBOOK_KINDS
from e0.network.presets import find_preset
from e0.policy import PolicySettings, make_objective, network_sizes, token_layout
from e0.tokens import ActionTokenizer
from lerobot_policy_e0.defaults import (
    PRETRAINED,
    default_action_steps,
    default_dtype,
    default_horizon,
    default_image_size,
    training_defaults,
)
from lerobot_policy_e0.standard_augmentation import StandardAugmentation
from lerobot_policy_e0.viewpoint import DEPTH, NUMBERS, VIEWPOINT, ViewpointSettings
from lerobot_policy_e0.vision_model import VisionModel

OF_ONE_TRAINING = ("init_from", "prefix_from", "reflow_from", "refit_codebook")


@OptimizerConfig.register_subclass("fused_adamw")
@dataclass
class FusedAdamWConfig(AdamWConfig):
    """AdamW whose update of all parameters is one kernel; every device of today has it."""

    fused: bool = True


@PreTrainedConfig.register_subclass("e0")
@dataclass
class E0Config(PreTrainedConfig):
    """Settings of `E0Policy`.

    Actions:
        horizon: steps of a chunk; one second of the dataset if None, at most what the preset was
            made for. n_action_steps: how many of them run before the next chunk; half if None.
        vocabulary_size: codes per action dimension. codebook: how they are placed; auto chooses
            for each dimension by the error on held-out actions (`e0.tokens.ActionTokenizer.fit`).
    Method (see `e0.objectives`, and `e0.policy.PolicySettings` for which applies to which):
        objective, head, mean_weight, embedding, schedule, time_distribution, start, time_grid,
        sampler, temperature, cooling, read_out, early_stop, decoding, decoding_draws,
        confidence_noise, remask, regression_error, denoising_steps (network evaluations per chunk),
        noise_draws (per observation in training), rtc_training_max_delay (the most first steps of a
        chunk that training gives, for real-time chunking: `e0.prefix`; not with reflow_from).
    Network:
        preset: a row of `e0.network.presets`. image_size: height and width that pictures are
            brought to, such as [96,128]; if None those of the preset, or of the model that `vision`
            names, in the cameras' own shape.
        vision: a pretrained model that the presets `tiny` and `small` see with in place of their
            own tower: resnet18, dinov2_small, siglip_base, a directory or a hub id of a ResNet,
            DINOv2 or SigLIP of the library transformers. vision_weights: pretrained, or random.
        vision_config: set by it, what the model is; its weights are in the checkpoint.
        use_instruction: feed the task's text;
        maximum_instruction_bytes: longer instructions are refused, never cut.
        cameras: the images that the policy sees, in this order; all in the dataset's order if
            empty. pi-0's order is base, left wrist, right wrist.
        token_grain: one action token for every `step`, or every `dimension` of every step.
        text_tokenizer: for the paligemma presets, a tokenizer.json, a directory with one or a hub
            id; kept in the checkpoint. maximum_prompt_tokens: longer prompts are refused; 0 means
            48, or 200 where the state is in the prompt.
        compile_model: torch.compile the denoising network. fast_sampling: make all ahead of
            sampling that can be made ahead (`e0.sampling.sampler`), on a GPU as one CUDA graph.
    Training:
        vector_noise: deviation of the Gaussian noise on normalized vector features, so that exact
            numbers cannot name an episode and the policy has to look at its images.
        dtype: float32, or bfloat16 for autocast in LeRobot's training loop and for sampling; if
            None bfloat16 for the 3 B presets on a GPU. optimizer_lr: by the preset if None.
            optimizer_lr_vision: of a pretrained vision model, 2.5e-5 if None, or optimizer_lr where
            that is less.
        viewpoint_augmentation: trains as if cameras had been bumped
            (`lerobot_policy_e0.viewpoint.ViewpointSettings`), as in
            --policy.viewpoint_augmentation.probability=0.8.
        standard_augmentation: crop, rotation and colours
            (`lerobot_policy_e0.standard_augmentation.StandardAugmentation`).
        freeze_vision, freeze_language: leave the vision tower (of `vision` the pretrained model,
            not its projection to the policy's width), or the words and the blocks of the prefix,
            as they are. gradient_checkpointing: compute the insides of blocks again in the
            backward pass, for less memory. ema_decay: act with an average of the weights, 0.999 is
            usual; 0 is none.
        init_from: weights that a new policy starts from (`e0.weights`): pi-0, pi-0.5, PaliGemma or
            the authors' E0, as a file, directory or hub id.
        initialized_from: set by it, what the weights were and their hash.
        action_feature_names: set by training, the dataset's; LeRobot brings a robot's actions into
            their order, and warns of other names.
        refit_codebook: continue from a checkpoint with codebooks that are fitted to this dataset.
        prefix_from: checkpoint directory of a trained policy, of any objective; a new policy starts
            with its encoding of observations, and learns on from there.
        reflow_from: checkpoint directory of a trained policy whose noise-to-chunk pairs are
            learned in place of the demonstrated actions, for fewer denoising steps (`e0.reflow`).
            Start from the same one: --policy.path=DIRECTORY --policy.reflow_from=DIRECTORY.
        reflow_steps: its denoising steps.
        Checkpoints forget init_from, prefix_from, reflow_from and refit_codebook: they belong to
        the training that they are given to.
    """

    horizon: int | None = None
    n_action_steps: int | None = None
    vocabulary_size: int = PolicySettings.vocabulary_size
    codebook: str = "auto"

    objective: str = PolicySettings.objective
    head: str = PolicySettings.head
    mean_weight: float = PolicySettings.mean_weight
    embedding: str = PolicySettings.embedding
    schedule: str = PolicySettings.schedule
    time_distribution: str = PolicySettings.time_distribution
    start: str = PolicySettings.start
    time_grid: str = PolicySettings.time_grid
    sampler: str = PolicySettings.sampler
    temperature: float = PolicySettings.temperature
    cooling: bool = PolicySettings.cooling
    read_out: str = PolicySettings.read_out
    early_stop: bool = PolicySettings.early_stop
    decoding: str = PolicySettings.decoding
    decoding_draws: int = PolicySettings.decoding_draws
    confidence_noise: float = PolicySettings.confidence_noise
    remask: bool = PolicySettings.remask
    regression_error: str = PolicySettings.regression_error
    denoising_steps: int = PolicySettings.denoising_steps
    noise_draws: int = PolicySettings.noise_draws
    rtc_training_max_delay: int = PolicySettings.rtc_training_max_delay

    preset: str = "tiny"
    image_size: tuple[int, int] | None = None
    vision: str | None = None
    vision_weights: str = "pretrained"
    vision_config: str | None = None
    use_instruction: bool = PolicySettings.use_instruction
    maximum_instruction_bytes: int = 256
    cameras: list[str] = field(default_factory=list)
    token_grain: str = PolicySettings.token_grain
    text_tokenizer: str | None = None
    maximum_prompt_tokens: int = 0
    compile_model: bool = False
    fast_sampling: bool = True

    vector_noise: float = 0.0
    dtype: str | None = None
    viewpoint_augmentation: ViewpointSettings = field(default_factory=ViewpointSettings)
    standard_augmentation: StandardAugmentation = field(default_factory=StandardAugmentation)
    freeze_vision: bool = False
    freeze_language: bool = False
    gradient_checkpointing: bool = False
    ema_decay: float = 0.0
    init_from: str | None = None
    initialized_from: str | None = None
    action_feature_names: list[str] | None = None
    refit_codebook: bool = False
    prefix_from: str | None = None
    reflow_from: str | None = None
    reflow_steps: int = 10

    optimizer_lr: float | None = None
    optimizer_lr_vision: float | None = None
    optimizer_betas: tuple[float, float] = (0.9, 0.99)
    optimizer_weight_decay: float = 1e-2
    optimizer_grad_clip_norm: float = 1.0
    warmup_fraction: float = 0.05

    # What is left out follows from the preset.
    normalization_mapping: dict[str, NormalizationMode] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        preset = find_preset(self.preset)
        if self.dtype is None:
            self.dtype = default_dtype(self.preset, self.device)
        if self.optimizer_lr is None:
            self.optimizer_lr = training_defaults(self.preset).learning_rate
        self._fill_normalization(in_prompt=preset.state == "prompt")
        if self.maximum_prompt_tokens < 0:
            raise ValueError(
                f"maximum_prompt_tokens must not be negative, got {self.maximum_prompt_tokens}"
            )
        if self.maximum_prompt_tokens == 0:
            self.maximum_prompt_tokens = 200 if preset.state == "prompt" else 48
        self._check_steps()
        if self.codebook not in CODEBOOK_KINDS:
            raise ValueError(
                f"unknown codebook {self.codebook!r}; known: {', '.join(CODEBOOK_KINDS)}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be float32 or bfloat16, got {self.dtype!r}")
        if self.reflow_steps < 1:
            raise ValueError(f"reflow_steps must be at least 1, got {self.reflow_steps}")
        if self.reflow_from is not None and self.rtc_training_max_delay:
            raise ValueError("reflow_from gives no steps: set rtc_training_max_delay=0 with it")
        if not self.vector_noise >= 0:
            raise ValueError(f"vector_noise must not be negative, got {self.vector_noise}")
        for name in ("optimizer_lr", "optimizer_lr_vision"):
            rate = getattr(self, name)
            if rate is not None and not rate > 0:
                raise ValueError(f"{name} must be positive, got {rate}")
        self._check_vision()
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie within [0, 1), got {self.ema_decay}")
        if not 0 <= self.warmup_fraction <= 1:
            raise ValueError(
                f"warmup_fraction must lie between 0 and 1, got {self.warmup_fraction}"
            )
        if self.maximum_instruction_bytes < 1:
            raise ValueError(
                "maximum_instruction_bytes must be at least 1, got "
                f"{self.maximum_instruction_bytes}"
            )
        if self.compile_model and self.objective == "autoregressive":
            raise ValueError(
                "compile_model does not work with objective=autoregressive: its inputs grow with "
                "every token"
            )
        # The method checks its own settings; do it now, before a dataset is downloaded.
        settings = self._settings(cameras=(), vectors={}, action_dim=1)
        network_sizes(settings)
        token_layout(settings, make_objective(settings, ActionTokenizer(1, self.vocabulary_size)))

    def _fill_normalization(self, in_prompt: bool) -> None:
        vectors = NormalizationMode.QUANTILES if in_prompt else NormalizationMode.MEAN_STD
        default = {"STATE": vectors, "ENV": vectors}
        default |= dict.fromkeys(("VISUAL", "ACTION"), NormalizationMode.IDENTITY)
        self.normalization_mapping = mapping = default | self.normalization_mapping
        if mapping["ACTION"] is not NormalizationMode.IDENTITY:
            raise ValueError(
                f"normalization_mapping must be IDENTITY for ACTION, got {mapping['ACTION']}: "
                "codebooks hold actions as they are"
            )
        if in_prompt and (mapping["STATE"], mapping["ENV"]) != (vectors, vectors):
            raise ValueError(
                f"normalization_mapping must be QUANTILES for STATE and ENV with the preset "
                f"{self.preset!r}, got {mapping['STATE']} and {mapping['ENV']}: its prompt tells "
                "them in bins of [-1, 1]"
            )

    def _check_steps(self) -> None:
        if self.n_action_steps is None:
            return
        longest = training_defaults(self.preset).longest_horizon
        if not 1 <= self.n_action_steps <= (longest if self.horizon is None else self.horizon):
            raise ValueError(
                f"n_action_steps ({self.n_action_steps}) must lie between 1 and the horizon "
                f"({self.horizon}): a chunk holds no more steps"
            )

    def _check_vision(self) -> None:
        if self.vision_weights not in ("pretrained", "random"):
            raise ValueError(
                f"vision_weights must be pretrained or random, got {self.vision_weights!r}"
            )
        if self.vision is not None and training_defaults(self.preset) is PRETRAINED:
            raise ValueError(
                f"vision={self.vision!r} is for the presets tiny and small: {self.preset!r} has "
                "its own pretrained tower"
            )

    def fill_in(self, fps: float | None = None) -> None:
        """Choose what was left out, for a new policy and a dataset of this rate in steps a second;
        see `lerobot_policy_e0.defaults`."""
        if self.horizon is None:
            self.horizon = max(default_horizon(self.preset, fps), self.n_action_steps or 1)
        if self.n_action_steps is None:
            self.n_action_steps = default_action_steps(self.horizon)
        pictures = [feature.shape for feature in self.image_features.values()]
        if self.vision_config is not None:
            model = VisionModel.from_json(self.vision_config)
            self.image_size = model.picture_size(self.image_size, pictures)
        elif self.image_size is None and fps is not None:
            self.image_size = default_image_size(self.preset, pictures)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Without what belongs to one training: another that starts from this checkpoint would
        inherit it unasked. A resumed one reads LeRobot's `train_config.json`, which has it."""
        kept = copy(self)
        for name in OF_ONE_TRAINING:
            setattr(kept, name, getattr(E0Config, name))
        super(E0Config, kept)._save_pretrained(save_directory)

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        # LeRobot asks before it tells the dataset's rate; the policy takes what it needs.
        return list(range(self.horizon or training_defaults(self.preset).longest_horizon))

    @property
    def reward_delta_indices(self) -> None:
        return None

    @property
    def vision_lr(self) -> float | None:
        """Learning rate of a pretrained vision model, None for that of all the rest."""
        assert self.optimizer_lr is not None  # filled in by the preset
        if self.optimizer_lr_vision is None and self.vision_weights == "pretrained":
            return min(self.optimizer_lr, PRETRAINED.learning_rate)
        return self.optimizer_lr_vision

    def get_optimizer_preset(self) -> FusedAdamWConfig:
        assert self.optimizer_lr is not None  # filled in by the preset
        return FusedAdamWConfig(
            lr=self.optimizer_lr,
            betas=self.optimizer_betas,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> CosineDecayWithWarmupSchedulerConfig:
        assert self.optimizer_lr is not None
        # LeRobot scales these counts down to the run's number of steps.
        decay_steps = 1_000_000
        return CosineDecayWithWarmupSchedulerConfig(
            num_warmup_steps=int(self.warmup_fraction * decay_steps),
            num_decay_steps=decay_steps,
            peak_lr=self.optimizer_lr,
            decay_lr=0.0,
        )

    def validate_features(self) -> None:
        """Raise ValueError unless there is an action vector and something to observe.

        Depth is for `viewpoint_augmentation` and no input of the policy.
        """
        self.input_features = {
            name: feature
            for name, feature in (self.input_features or {}).items()
            if not name.endswith(DEPTH)
        }
        if self.action_feature is None or len(self.action_feature.shape) != 1:
            raise ValueError(
                "an E0 policy needs the feature 'action', one vector per step; the dataset or "
                f"environment offers {sorted(self.output_features or {}) or 'no action'}"
            )
        for name, feature in self.input_features.items():
            if feature.type in (FeatureType.STATE, FeatureType.ENV) and len(feature.shape) != 1:
                raise ValueError(
                    f"feature {name!r} has shape {tuple(feature.shape)}; vector features must have "
                    "one axis: flatten it, or leave it out of the policy's input_features"
                )
        if not self.image_features and not self.vector_features:
            raise ValueError("an E0 policy needs at least one image or vector feature to observe")

    @property
    def vector_features(self) -> dict[str, int]:
        """Name and size of proprioception and every further vector feature."""
        return {
            name: feature.shape[0]
            for name, feature in (self.input_features or {}).items()
            if feature.type in (FeatureType.STATE, FeatureType.ENV)
        }

    def policy_settings(self) -> PolicySettings:
        """The settings of the plain PyTorch policy. Raises ValueError for unusable features."""
        self.validate_features()
        assert self.action_feature is not None
        unknown = [name for name in self.cameras if name not in self.image_features]
        if unknown:
            raise ValueError(
                f"cameras names {unknown}; the dataset or environment has "
                f"{sorted(self.image_features)}"
            )
        cameras = tuple(self.cameras or self.image_features)
        vectors = dict(self.vector_features)
        if find_preset(self.preset).state == "prompt":
            vectors = {}
        if self.viewpoint_augmentation.embedding and self.image_features:
            if find_preset(self.preset).state == "prompt":
                raise ValueError(
                    f"the preset {self.preset!r} takes no vector features, so it cannot be told "
                    "how its cameras moved; set viewpoint_augmentation.embedding=false"
                )
            vectors[VIEWPOINT] = NUMBERS * len(self.image_features)
        return self._settings(cameras, vectors, self.action_feature.shape[0])

    def _settings(
        self, cameras: tuple[str, ...], vectors: dict[str, int], action_dim: int
    ) -> PolicySettings:
        taken = {
            name: getattr(self, name)
            for name in (field.name for field in fields(PolicySettings))
            if name not in ("cameras", "vectors", "action_dim") and getattr(self, name) is not None
        }
        taken.setdefault("horizon", training_defaults(self.preset).longest_horizon)
        return PolicySettings(cameras, vectors, action_dim, **taken)
