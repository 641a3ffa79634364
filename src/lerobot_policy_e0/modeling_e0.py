"""`E0Policy`: the plain PyTorch policy of `e0` behind LeRobot's policy interface."""

from __future__ import annotations

import logging
import re
from collections import deque
from pathlib import Path
from typing import Any, ClassVar

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy
from lerobot.utils.constants import ACTION
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from e0.averaging import WeightAverage, with_weights
from e0.network.policy_network import Observation
from e0.policy import ActionChunk, Policy
from e0.reflow import make_teacher, reflow_loss
from e0.sampling.cuda_graph import GraphedSampler
from e0.sampling.sampler import FastSampler, require_dtype
from e0.weights import import_weights, open_source
from lerobot_policy_e0.configuration_e0 import E0Config
from lerobot_policy_e0.prompts import find_tokenizer, make_prompts, tokenizer_of
from lerobot_policy_e0.training_start import (
    augmentations,
    augments_in_processor,
    check_texts,
    continue_on,
    fit_codebooks,
    prepare_dataset,
    say_what_is_trained,
)
from lerobot_policy_e0.viewpoint import VIEWPOINT
from lerobot_policy_e0.vision import make_tower, optimizer_groups

logger = logging.getLogger(__name__)

RENAMED = {
    "model.network.action_in.": "model.network.action_tokens.input.",
    "model.network.action_out.": "model.network.action_tokens.output.",
}
"""Parts of earlier checkpoints, and what they are called now."""


class CheckpointError(ValueError):
    """A checkpoint that is damaged or belongs to another model."""


class E0Policy(PreTrainedPolicy):
    """E0 for LeRobot's training loop, evaluation and robots.

    `dataset_meta` and `dataset_stats` come from LeRobot when a policy is made for a dataset; the
    action codebooks are fitted to them. A policy that is loaded has them in its checkpoint.
    """

    config_class = E0Config  # pyright: ignore[reportAssignmentType]
    _no_split_modules: ClassVar = ["Block", "VisionBlock"]  # units of sharded training
    name = "e0"  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        config: E0Config,
        dataset_stats: dict[str, dict[str, Any]] | None = None,
        dataset_meta: Any | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config)
        self.config: E0Config = config
        new = dataset_meta is not None or dataset_stats is not None
        tower = make_tower(config, new)
        config.fill_in(None if dataset_meta is None else dataset_meta.fps)
        if config.dtype == "bfloat16":
            require_dtype(torch.bfloat16, torch.device(config.device or "cpu"))
        if dataset_meta is not None:
            prepare_dataset(config, dataset_meta)
        self.model = Policy(config.policy_settings(), tower)
        if dataset_meta is not None:
            fit_codebooks(self.model.tokenizer, config, dataset_meta)
        elif dataset_stats is not None:
            if ACTION not in dataset_stats:
                raise ValueError(
                    f"the dataset's statistics hold no {ACTION!r}, only {sorted(dataset_stats)}: "
                    "recompute them, or pass dataset_meta so that the actions can be read"
                )
            self.model.tokenizer.fit_statistics(dataset_stats[ACTION], config.codebook)
        if new and config.prefix_from is not None:
            self.model.copy_prefix(self._load_other("prefix_from"))
        if new and config.init_from is not None:
            report = import_weights(self.model, open_source(config.init_from))
            config.initialized_from = f"{report.kind} {report.source} sha256:{report.sha256}"
            logger.info("%s", report.summary())
        self.prompts = make_prompts(config, find_tokenizer(config) if new else None)
        if dataset_meta is not None:
            check_texts(self.prompts, config, dataset_meta)
            say_what_is_trained(config, self.model, dataset_meta.fps)
        self.augmentations = augmentations(config)
        network = self.model.network
        network.freeze(vision=config.freeze_vision, language=config.freeze_language)
        network.checkpointing = config.gradient_checkpointing
        self.average = WeightAverage(network, config.ema_decay) if config.ema_decay else None
        if config.compile_model:
            network.compile_denoising()
        self._samplers: dict[int | None, FastSampler | GraphedSampler] = {}
        self._sampled_state: tuple[int, int] | None = None
        self._acting: tuple[int, Policy] | None = None
        self._teachers: list[Policy] = []  # in a list, since it is no part of this module
        self.reset()

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Matrices with weight decay; norms, biases and learned offsets without."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return optimizer_groups(groups, self.model.network.tower, self.config.vision_lr)

    def update(self) -> None:
        """LeRobot calls this after every optimizer step."""
        if self.average is not None:
            self.average.update(self.model.network)

    def acting(self) -> Policy:
        """The policy that acts: with the average of the weights, if there is one."""
        if self.average is None:
            return self.model
        averages = self.average.averages()
        place = next(iter(averages.values())).data_ptr()
        if self._acting is None or self._acting[0] != place:  # moved to another device
            weights = {f"network.{name}": average for name, average in averages.items()}
            self._acting = (place, with_weights(self.model, weights))
        return self._acting[1]

    def _get_default_peft_targets(self) -> dict[str, Any]:
        """LoRA on attention and perceptrons of both streams; what meets actions, time and vectors
        is small and trained whole."""
        blocks = r".*(prefix|suffix)_blocks\.\d+\.(attention|mlp)\."
        inner = "query|key_value\\.projection|output|gate_up|down"
        whole = [
            name
            for name, part in self.named_modules()
            if isinstance(part, torch.nn.Linear)
            and re.search(r"network\.(action_tokens|time|vector_projections)\.", name)
        ]
        return {"target_modules": f"{blocks}({inner})", "modules_to_save": whole}

    def _validate_peft_config(self, peft_config: Any) -> None:
        if not self.config.pretrained_path:
            raise ValueError(
                "an adapter is kept beside the policy that it adapts, so that one must be saved "
                "first: train one step with --policy.optimizer_lr=1e-12 (and, for weights of "
                "others, --policy.init_from=...), and adapt it with --policy.path=CHECKPOINT"
            )
        if self.config.ema_decay:
            raise ValueError("ema_decay averages no adapters; set --policy.ema_decay=0")

    def reset(self) -> None:
        """Forget the rest of the last chunk; LeRobot calls this at the start of an episode."""
        self._queue: deque[Tensor] = deque(maxlen=self.config.n_action_steps)
        self.last_chunk: ActionChunk | None = None

    def forward(
        self, batch: dict[str, Any], reduction: str = "mean"
    ) -> tuple[Tensor, dict[str, float] | None]:
        """Training loss of a batch: observations, `action` (B, H, D), `action_is_pad` (B, H).

        `reduction="none"` gives the loss of each sample, for LeRobot's sample weighting. Raises
        CheckpointError if the policy of `reflow_from` cannot be loaded or is of another kind.
        """
        if ACTION not in batch:
            raise ValueError(f"the batch has no {ACTION!r}, only {sorted(batch)}")
        if self.training and torch.is_grad_enabled():  # not where LeRobot validates
            batch = self._augmented(batch)
        observation = self._observation(batch)
        if self.config.reflow_from is not None:
            steps = self.config.reflow_steps
            losses = reflow_loss(self.model, self._teacher(), observation, steps=steps)
        else:
            actions = batch[ACTION]
            if self.model.settings.action_dim == 1 and actions.ndim == 2:
                actions = actions[..., None]  # LeRobotDatasets hold single numbers without an axis
            actions = actions[:, : self.model.settings.horizon]
            padded = batch.get("action_is_pad")
            valid = actions.new_ones(actions.shape[:2]).bool()
            if padded is not None:
                valid = ~padded[:, : self.model.settings.horizon]
            losses = self.model.loss(observation, actions, valid)
        return (losses if reduction == "none" else losses.mean()), None

    def _augmented(self, batch: dict[str, Any]) -> dict[str, Any]:
        place = self.model.tokenizer.codebook.device.type
        with torch.autocast(place, enabled=False):  # pictures are moved in full precision
            for augment in self.augmentations:
                batch = augment(batch)
        return batch

    def _teacher(self) -> Policy:
        """The policy of `reflow_from`, loaded when it is first asked for."""
        if self._teachers:
            return self._teachers[0]
        teacher = self._load_other("reflow_from")
        same = ("objective", "embedding", "action_dim", "horizon", "cameras", "vectors")
        for name in same:
            own, other = getattr(self.model.settings, name), getattr(teacher.settings, name)
            if own != other:
                raise CheckpointError(
                    f"the policy of reflow_from has {name} {other}, this one has {own}"
                )
        if not torch.equal(teacher.tokenizer.codebook, self.model.tokenizer.codebook):
            raise CheckpointError(
                "the policy of reflow_from has other codebooks than this one: start from it with "
                f"--policy.path={self.config.reflow_from}"
            )
        self._teachers.append(make_teacher(teacher))
        return self._teachers[0]

    def _load_other(self, setting: str) -> Policy:
        """The policy whose checkpoint directory a setting of the configuration names."""
        directory = getattr(self.config, setting)
        if directory is None or not Path(directory).is_dir():
            raise CheckpointError(
                f"{setting} must be a checkpoint directory, and {directory!r} is none"
            )
        config = PreTrainedConfig.from_pretrained(directory)
        config.device = self.config.device
        return E0Policy.from_pretrained(directory, config=config).acting()

    def predict(self, batch: dict[str, Any], **options: Any) -> ActionChunk:
        """A whole chunk with the entropy of every token's posterior; see `e0.policy.Policy.sample`
        for the options (steps, generator, noise, keep_trace)."""
        self.eval()
        observation = self._observation(batch)
        if not self.config.fast_sampling or options.get("keep_trace"):
            return self.acting().sample(observation, **options)
        return self._sampler(options.pop("steps", None)).sample(observation, **options)

    def _sampler(self, steps: int | None) -> FastSampler | GraphedSampler:
        """The fast sampler for the weights as they are now."""
        tensors = (*self.parameters(), *self.buffers())
        state = (sum(tensor._version for tensor in tensors), tensors[0].data_ptr())
        if state != self._sampled_state:
            self._sampled_state = state
            self._samplers.clear()
        if steps not in self._samplers:
            half = self.config.dtype == "bfloat16"
            sampler = FastSampler(
                self.acting(),
                steps=steps,
                dtype=torch.bfloat16 if half else None,
                compile_steps=self.config.compile_model,
            )
            on_gpu = self.model.tokenizer.codebook.device.type == "cuda"
            self._samplers[steps] = GraphedSampler(sampler) if on_gpu else sampler
        return self._samplers[steps]

    def train(self, mode: bool = True) -> E0Policy:
        """As always; what was made ahead for sampling is dropped where weights may change."""
        if mode:
            self._samplers = {}
        return super().train(mode)

    def predict_action_chunk(self, batch: dict[str, Any], **options: Any) -> Tensor:
        """A whole chunk (B, H, D) in action units. `noise` fixes where denoising starts."""
        return self.predict(batch, **options).actions

    def select_action(self, batch: dict[str, Any], **options: Any) -> Tensor:
        """The next action (B, D); a new chunk, kept as `last_chunk`, is made every
        `n_action_steps` calls."""
        if not self._queue:
            self.last_chunk = self.predict(batch, **options)
            self._queue.extend(self.last_chunk.actions[:, : self.config.n_action_steps].unbind(1))
        return self._queue.popleft()

    @property
    def actions_left(self) -> int:
        """How many actions `select_action` gives before it looks at an observation again."""
        return len(self._queue)

    def _observation(self, batch: dict[str, Any]) -> Observation:
        """Pick this policy's features out of a LeRobot batch; name what is missing."""
        cameras = self.model.settings.cameras
        expected = [*cameras, *self.config.vector_features]
        missing = [name for name in expected if name not in batch]
        if missing:
            came = sorted(name for name in batch if name.startswith("observation"))
            raise ValueError(
                f"the batch lacks {missing}; this policy expects {sorted(expected)}, the batch has "
                f"{came}. Rename features with --rename_map, or use the cameras and state "
                "the policy was trained with"
            )
        sizes = self.config.vector_features
        vectors = {name: _rows(batch[name], size) for name, size in sizes.items()}
        if self.training and self.config.vector_noise > 0:
            noise = self.config.vector_noise
            vectors = {name: x + noise * torch.randn_like(x) for name, x in vectors.items()}
        instruction = self._instruction(batch, vectors) if self.config.use_instruction else None
        images = {name: _in_colour(batch[name]) for name in cameras}
        numbers = self.prompts.network_vectors(vectors)
        if VIEWPOINT in self.model.settings.vectors:
            size = self.model.settings.vectors[VIEWPOINT]
            unknown = next(iter(images.values())).new_zeros(len(next(iter(images.values()))), size)
            numbers = {**numbers, VIEWPOINT: batch.get(VIEWPOINT, unknown)}
        return Observation(images, numbers, instruction)

    def _instruction(self, batch: dict[str, Any], vectors: dict[str, Tensor]) -> Tensor:
        if "task" not in batch:
            raise ValueError(
                "the batch has no 'task' text and this policy follows instructions; give one, or "
                "train with --policy.use_instruction=false"
            )
        texts = [batch["task"]] if isinstance(batch["task"], str) else list(batch["task"])
        return self.prompts.encode(texts, vectors).to(self.config.device)

    def _save_pretrained(
        self, save_directory: Path, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        super()._save_pretrained(save_directory, state_dict)
        self.prompts.save(save_directory)

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, strict: bool = True, **options: Any
    ) -> E0Policy:
        """Load a checkpoint, strictly: LeRobot's default would keep random weights where a tensor
        is missing. Raises CheckpointError naming what is wrong."""
        if not strict:
            raise ValueError("an E0 checkpoint is only ever loaded strictly")
        _refuse_adapter(pretrained_name_or_path)
        meta = options.pop("dataset_meta", None)
        options.pop("dataset_stats", None)  # The codebooks come from the checkpoint.
        policy = super().from_pretrained(pretrained_name_or_path, strict=True, **options)
        policy.model.tokenizer.require_fitted()
        policy.prompts = make_prompts(policy.config, tokenizer_of(pretrained_name_or_path))
        if meta is not None:
            policy._continue_on(meta, pretrained_name_or_path)
        return policy

    def _continue_on(self, dataset_meta: Any, checkpoint: str | Path) -> None:
        """Get ready to be trained further on a dataset; see `training_start`."""
        prepare_dataset(self.config, dataset_meta)
        continue_on(self.config, self.model.tokenizer, dataset_meta)
        check_texts(self.prompts, self.config, dataset_meta)
        say_what_is_trained(self.config, self.model, dataset_meta.fps)
        if augments_in_processor(self.config, checkpoint):
            self.augmentations = []

    @classmethod
    def _load_as_safetensor(
        cls, model: E0Policy, model_file: str, map_location: str, strict: bool
    ) -> E0Policy:
        try:
            state = load_file(model_file, device=str(torch.device(map_location)))
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"cannot read the checkpoint {model_file}: {error}") from error
        for old, name in RENAMED.items():
            state = {key.replace(old, name, 1): tensor for key, tensor in state.items()}
        expected = model.state_dict()
        problems = [f"missing {name}" for name in expected if name not in state]
        problems += [f"unexpected {name}" for name in state if name not in expected]
        problems += [
            f"{name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ]
        if problems:
            shown = "; ".join(problems[:5]) + (" ..." if len(problems) > 5 else "")
            raise CheckpointError(
                f"{model_file} does not fit this policy ({len(problems)} differences): {shown}"
            )
        model.load_state_dict(state, strict=True)
        return model


def _rows(vector: Tensor, size: int) -> Tensor:
    """A vector feature as (B, size). LeRobot adds the batch axis to its own state features, but not
    to further vectors, and has single numbers without an axis."""
    return vector.reshape(-1, 1) if size == 1 and vector.ndim < 2 else torch.atleast_2d(vector)


def _in_colour(image: Tensor) -> Tensor:
    """Pictures (..., 3, H, W) of ones that may be monochrome, (..., 1, H, W)."""
    return image.expand(*image.shape[:-3], 3, -1, -1) if image.shape[-3] == 1 else image


def _refuse_adapter(directory: str | Path) -> None:
    adapter = Path(directory) / "adapter_config.json"
    if adapter.is_file() and not (Path(directory) / "model.safetensors").is_file():
        raise CheckpointError(
            f"{directory} holds an adapter (LoRA) and not the policy that it adapts: load that, "
            "put the adapter on it with peft.PeftModel.from_pretrained, and merge_and_unload"
        )
