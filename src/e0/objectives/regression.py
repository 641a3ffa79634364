"""The whole chunk at once by regression, as OpenVLA-OFT does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from e0.diffusion import mean_over_valid
from e0.known import require_known
from e0.objectives.flow import standardize, to_actions
from e0.objectives.interface import ActionChunk, Denoise, Sampling, refuse_noise, refuse_prefix
from e0.tokens import ActionTokenizer

ERRORS = ("absolute", "squared")


@dataclass(frozen=True, eq=False)
class RegressionObjective:
    """Regression with parallel decoding: one evaluation gives the median of each action by itself
    from the `absolute` error (L1, as OpenVLA-OFT, arXiv 2502.19645, has it), the mean from the
    `squared` one. Where demonstrations disagree, either lies between them.

    The network gets nothing but the observation: its inputs are empty and the time is zero. Raises
    ValueError for another error.
    """

    tokenizer: ActionTokenizer
    error: str = "absolute"

    causal = False
    input_width = 0
    output_width = 1

    def __post_init__(self) -> None:
        require_known("regression error", self.error, ERRORS)

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
        off = self._predict(denoise, target.shape) - target
        return mean_over_valid(off.abs() if self.error == "absolute" else off.square(), valid)

    def sample(self, denoise: Denoise, batch: int, horizon: int, sampling: Sampling) -> ActionChunk:
        refuse_noise(sampling.noise, "regression")
        refuse_prefix(sampling.prefix, "regression")
        shape = torch.Size((batch, horizon, self.tokenizer.action_dim))
        actions = to_actions(self.tokenizer, self._predict(denoise, shape))
        return ActionChunk(actions, None, 1, None)

    def _predict(self, denoise: Denoise, shape: torch.Size) -> Tensor:
        nothing = torch.zeros((*shape, 0), device=self.tokenizer.codebook.device)
        return denoise(nothing, nothing.new_zeros(len(nothing)))[..., 0].float()
