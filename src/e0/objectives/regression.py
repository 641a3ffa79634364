"""The whole chunk at once by L1 regression, as OpenVLA-OFT does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from e0.diffusion import mean_over_valid
from e0.objectives.flow import standardize, to_actions
from e0.objectives.interface import ActionChunk, Denoise, Sampling, refuse_noise, refuse_prefix
from e0.tokens import ActionTokenizer


@dataclass(frozen=True, eq=False)
class RegressionObjective:
    """L1 regression with parallel decoding (OpenVLA-OFT, arXiv 2502.19645): one evaluation gives
    the median of each action by itself. Where demonstrations disagree, it lies between them.

    The network gets nothing but the observation: its inputs are empty and the time is zero.
    """

    tokenizer: ActionTokenizer

    causal = False
    input_width = 0
    output_width = 1

    def loss(
        self,
        denoise: Denoise,
        actions: Tensor,
        valid: Tensor,
        draws: int,
        noise: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        refuse_noise(noise, "regression")
        target = standardize(self.tokenizer, actions)
        error = self._predict(denoise, target.shape) - target
        return mean_over_valid(error.abs(), valid)

    def sample(self, denoise: Denoise, batch: int, horizon: int, sampling: Sampling) -> ActionChunk:
        refuse_noise(sampling.noise, "regression")
        refuse_prefix(sampling.prefix, "regression")
        shape = torch.Size((batch, horizon, self.tokenizer.action_dim))
        actions = to_actions(self.tokenizer, self._predict(denoise, shape))
        return ActionChunk(actions, None, 1, None)

    def _predict(self, denoise: Denoise, shape: torch.Size) -> Tensor:
        nothing = torch.zeros((*shape, 0), device=self.tokenizer.codebook.device)
        return denoise(nothing, nothing.new_zeros(len(nothing)))[..., 0].float()
