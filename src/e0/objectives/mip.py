"""Two regressions in a row: from nothing, and from a chunk that is nearly right (MIP)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from e0.diffusion import mean_over_valid
from e0.objectives.flow import interpolate, standardize, to_actions
from e0.objectives.interface import ActionChunk, Denoise, Sampling, refuse_noise, refuse_prefix
from e0.tokens import ActionTokenizer

SECOND_TIME = 0.1
"""t* = .9 of the paper, where t = 1 is clean."""
FIRST_WEIGHT = 2 * SECOND_TIME**2 / (SECOND_TIME**2 + (1 - SECOND_TIME) ** 2)
SECOND_WEIGHT = 2 - FIRST_WEIGHT


@dataclass(frozen=True, eq=False)
class MIPObjective:
    """Minimal Iterative Policy (Much Ado About Noising, arXiv 2512.01809): what is left of flow
    matching without a distribution: iteration that is supervised, and noise in training.

    One network predicts the chunk a twice, from zeros at t = 1 and from (1 - t) a + t ε at t = .1,
    with squared errors in the ratio 1/.9² to 1/.1², as in the authors' code: the second one has
    only noise of a tenth to remove. Sampling draws nothing and takes two evaluations, whatever
    number of steps is asked for: the second one starts from (1 - t) times what the first one said.
    Where demonstrations disagree, the first one lies between them.
    """

    tokenizer: ActionTokenizer

    causal = False
    input_width = 1
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
        """As of `Objective`. The first draw of each observation starts from zeros, which are always
        the same, the others from noise; a single draw starts from either by chance. What either
        counts does not depend on the number of draws."""
        refuse_noise(noise, "mip")
        valid = valid.repeat_interleave(draws, dim=0)
        clean = standardize(self.tokenizer, actions).repeat_interleave(draws, dim=0)
        clean = clean.masked_fill(~valid[..., None], 0.0)  # padded steps carry no signal
        share = 1 / max(draws, 2)
        if draws == 1:
            first = torch.rand(len(clean), device=clean.device) < share
        else:
            first = torch.arange(len(clean), device=clean.device) % draws == 0
        time = torch.full((len(clean),), SECOND_TIME, device=clean.device)
        noisy = interpolate(clean, torch.randn_like(clean), time)
        time = time.masked_fill(first, 1.0)
        predicted = _predict(denoise, noisy.masked_fill(first[:, None, None], 0.0), time)
        error = mean_over_valid((predicted - clean).square(), valid)
        weight = torch.where(first, FIRST_WEIGHT / share, SECOND_WEIGHT / (1 - share))
        return (weight * error).view(-1, draws).mean(1)

    def sample(self, denoise: Denoise, batch: int, horizon: int, sampling: Sampling) -> ActionChunk:
        refuse_noise(sampling.noise, "mip")
        refuse_prefix(sampling.prefix, "mip")
        shape = (batch, horizon, self.tokenizer.action_dim)
        chunk = torch.zeros(shape, device=self.tokenizer.codebook.device)
        for time in (1.0, SECOND_TIME):
            chunk = _predict(denoise, (1 - time) * chunk, chunk.new_full((batch,), time))
        return ActionChunk(to_actions(self.tokenizer, chunk), None, 2, None)


def _predict(denoise: Denoise, noisy: Tensor, time: Tensor) -> Tensor:
    """Standardized chunks (B, H, D) from standardized ones."""
    return denoise(noisy[..., None], time)[..., 0].float()
