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
from torch import Tensor

from e0.averaging import WeightAverage, with_weights
from e0.network.policy_network import Observation
from e0.policy import ActionChunk, Policy
from e0.precision import cast_in_place, require_dtype
from e0.reflow import make_teacher, reflow_loss
from e0.sampling.cuda_graph import GraphedSampler
from e0.sampling.sampler import FastSampler
from e0.weights import import_weights, open_source
from lerobot_policy_e0.acting import Episode, Samplers
from lerobot_policy_e0.batches import batch_size, read_pictures, read_tasks, read_vectors
from lerobot_policy_e0.checkpoints import CheckpointError, read_weights, refuse_adapter
from lerobot_policy_e0.configuration_e0 import E0Config
from lerobot_policy_e0.prompts import find_tokenizer, make_prompts, tokenizer_of
from lerobot_policy_e0.real_time import RealTimeChunking
from lerobot_policy_e0.training_start import (
    augmentations,
    augments_in_processor,
    check_texts,
    continue_on,
    fit_codebooks,
    fit_to_statistics,
    prepare_dataset,
    say_what_is_trained,
)
from lerobot_policy_e0.viewpoint import VIEWPOINT
from lerobot_policy_e0.vision import make_tower, optimizer_groups

logger = logging.getLogger(__name__)


class E0Policy(RealTimeChunking, PreTrainedPolicy):
    """E0 for LeRobot's training loop, evaluation and robots.

    `dataset_meta` and `dataset_stats` come from LeRobot when a policy is made for a dataset; the
    action codebooks are fitted to them. A policy that is loaded has them in its checkpoint.
    """

    config_class = E0Config  # pyright: ignore[reportAssignmentType]
    _no_split_modules: ClassVar = ["Block", "VisionBlock"]  # units of sharded training
    _fsdp_wrap_modules: ClassVar = _no_split_modules  # what LeRobot calls them after 0.6
    supports_gradient_checkpointing: ClassVar = True
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
            fit_to_statistics(self.model.tokenizer, config, dataset_stats)
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
        self._samplers, self._episode = Samplers(), Episode()
        self._acting: tuple[int, Policy] | None = None
        self._teachers: list[Policy] = []  # in a list, since it is no part of this module
        self._only_acts = False
        self.reset()

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Matrices with weight decay; norms, biases and learned offsets (identities, positions)
        without. Layers call their matrices `weight`, and nothing else with two axes."""
        groups: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                decays = parameter.ndim > 1 and name.endswith(".weight")
                groups[not decays].append(parameter)
        plain = [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}]
        return optimizer_groups(plain, self.model.network.tower, self.config.vision_lr)

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """Averages: every process computes the same ones from the same weights, so
        DistributedDataParallel need not send them around before each step."""
        buffers = () if self.average is None else self.average.named_buffers()
        return [f"average.{name}" for name, _ in buffers]

    def update(self) -> None:
        """LeRobot calls this after every optimizer step."""
        self._samplers.forget()
        if self.average is not None:
            self.average.update(self.model.network)

    def acting(self) -> Policy:
        """The policy that acts: with the average of the weights, if there is one."""
        if self.average is None:
            return self.model
        place = self.average.address
        if self._acting is None or self._acting[0] != place:  # moved to another device
            averages = self.average.averages()
            weights = {f"network.{name}": average for name, average in averages.items()}
            self._acting = (place, with_weights(self.model, weights))
        return self._acting[1]

    def only_act(self) -> None:
        """Keep nothing but what acts: averages in place of the weights they are of, and all in the
        configuration's dtype. Do it on the CPU, before the policy is moved to a GPU. It can then be
        neither trained nor saved."""
        if self.average is not None:
            with torch.no_grad():
                for name, average in self.average.averages().items():
                    self.model.network.get_parameter(name).copy_(average)
            self.average = self._acting = None
        if self.config.dtype == "bfloat16":
            cast_in_place(self.model.network, torch.bfloat16)
        self._only_acts = True
        self._samplers.forget()
        self.eval()

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
        """Forget the rest of the last chunk; LeRobot calls this at the start of an episode, in the
        thread that acts. Weights that were changed in place by hand count from here on."""
        self._episode.begin()
        self._samplers.look()

    @property
    def _action_queue(self) -> deque[Tensor]:
        """Actions that are left, by the name under which LeRobot drops them in mid-episode."""
        return self._episode.queue

    @property
    def last_chunk(self) -> ActionChunk | None:
        """The chunk that the running episode of this thread acts from."""
        return self._episode.last_chunk

    @property
    def device(self) -> torch.device:
        """Where the weights are; `config.device` says where they were loaded to."""
        return self.model.tokenizer.codebook.device

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
        observation = self.observation(batch)
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
            if self._teachers[0].tokenizer.codebook.device != self.device:
                self._teachers[0].to(self.device)
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
        config.device = str(self.device)
        return E0Policy.from_pretrained(directory, config=config).acting()

    def predict(self, batch: dict[str, Any], **options: Any) -> ActionChunk:
        """A whole chunk with the entropy of every token's posterior; see `e0.policy.Policy.sample`
        for the options (steps, generator, noise, keep_trace, prefix)."""
        if self.training:
            self.eval()
        observation, policy = self.observation(batch), self.acting()
        options.setdefault("prefix", self.nothing_given(observation.batch))
        if not self.config.fast_sampling or options.get("keep_trace"):
            return policy.sample(observation, **options)
        return self._sampler(options.pop("steps", None)).sample(observation, **options)

    def _sampler(self, steps: int | None) -> FastSampler | GraphedSampler:
        half = torch.bfloat16 if self.config.dtype == "bfloat16" else None
        return self._samplers.get(self.acting(), steps, half, self.config.compile_model)

    def warm_up(self, batch: dict[str, Any], **options: Any) -> None:
        """Make ahead what the first chunk would wait for: tables, compiled code, CUDA graphs.

        The batch must be like those to come, in the shapes of its tensors and its instruction, and
        so must `steps`. Nothing else changes, neither the running episode nor random numbers. Call
        it before an episode in which time counts.
        """
        self.predict(batch, generator=torch.Generator(self.device), **options)
        sampler = self._sampler(options.get("steps")) if self.config.fast_sampling else None
        if isinstance(sampler, GraphedSampler):
            observation = self.observation(batch)
            sampler.warm_up(observation, self.nothing_given(observation.batch))

    def train(self, mode: bool = True) -> E0Policy:
        """As always; what was made ahead for sampling is dropped where weights may change. Raises
        RuntimeError for a policy that can only act."""
        if mode:
            self._require_whole("trained")
            self._samplers.forget()
        return super().train(mode)

    def select_action(self, batch: dict[str, Any], **options: Any) -> Tensor:
        """The next action (B, D); a new chunk, kept as `last_chunk`, is made every
        `n_action_steps` calls.

        Raises RuntimeError in a thread that has not called `reset`, and ValueError for a batch of
        another size in mid-episode.
        """
        episode = self._episode
        features = (*self.config.vector_features, *self.model.settings.cameras)
        episode.require(batch_size(batch, features))
        if not episode.queue:
            episode.last_chunk = self.predict(batch, **options)
            actions = episode.last_chunk.actions[:, : self.config.n_action_steps]
            episode.queue.extend(actions.unbind(1))
        return episode.queue.popleft()

    def _require_whole(self, what: str) -> None:
        if self._only_acts:
            raise RuntimeError(
                f"this policy was loaded to act alone, so it cannot be {what}: its weights have "
                "lost what that needs. Load it with E0Policy.from_pretrained"
            )

    @property
    def actions_left(self) -> int:
        """How many actions `select_action` gives before it looks at an observation again."""
        return len(self._episode.queue)

    def __getstate__(self) -> dict[str, Any]:
        """For pickles and copies: all but what acting keeps and can make again. A copy begins a
        new episode."""
        return self.__dict__ | {"_episode": None, "_acting": None, "_teachers": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._episode = Episode()
        self.reset()

    def observation(self, batch: dict[str, Any]) -> Observation:
        """A preprocessed batch as the network takes it; in training with `vector_noise`."""
        cameras = self.model.settings.cameras
        vectors = read_vectors(batch, cameras, self.config.vector_features)
        if self.training and self.config.vector_noise > 0:
            noise = self.config.vector_noise
            vectors = {name: x + noise * torch.randn_like(x) for name, x in vectors.items()}
        instruction = None
        if self.config.use_instruction:
            instruction = self.prompts.encode(read_tasks(batch), vectors).to(self.device)
        numbers = self.prompts.network_vectors(vectors)
        if VIEWPOINT in self.model.settings.vectors:
            size = self.model.settings.vectors[VIEWPOINT]
            unknown = batch[cameras[0]].new_zeros(len(batch[cameras[0]]), size)
            numbers = {**numbers, VIEWPOINT: batch.get(VIEWPOINT, unknown)}
        return Observation(read_pictures(batch, cameras), numbers, instruction)

    def _save_pretrained(
        self, save_directory: Path, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        self._require_whole("saved")
        given = {} if state_dict is None else {"state_dict": state_dict}
        super()._save_pretrained(save_directory, **given)  # LeRobot after 0.6 gathers by itself
        self.prompts.save(save_directory)

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, strict: bool = True, **options: Any
    ) -> E0Policy:
        """Load a checkpoint, strictly: LeRobot's default would keep random weights where a tensor
        is missing. Raises CheckpointError naming what is wrong."""
        if not strict:
            raise ValueError("an E0 checkpoint is only ever loaded strictly")
        refuse_adapter(pretrained_name_or_path)
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
        # To where the model still is, so that the device need not hold all twice.
        place = str(model.device)
        model.load_state_dict(read_weights(model_file, place, model.state_dict()), strict=True)
        return model
