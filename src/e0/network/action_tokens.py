"""How a chunk of actions becomes the tokens of the suffix stream, and what comes out of them.

Shapes: B rows, H steps, D action dimensions, T tokens, C width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Grain = Literal["step", "dimension"]


@dataclass(frozen=True)
class TokenLayout:
    """What the action tokens are.

    grain: one token for every step, its D dimensions together, or one for every (step, dimension).
    causal: a token sees only those before it, otherwise all; needs grain `dimension`.
    flow_tokens: the first number of every input and output is a continuous action with tokens of
        its own, one for every step, ahead of the code tokens and not seeing them: what E0's authors
        released.
    input_width, output_width: numbers for every (step, dimension).
    """

    horizon: int
    action_dim: int
    input_width: int
    output_width: int
    grain: Grain = "step"
    causal: bool = False
    flow_tokens: bool = False

    def __post_init__(self) -> None:
        if self.grain not in ("step", "dimension"):
            raise ValueError(f"unknown token grain {self.grain!r}; known: step, dimension")
        if self.causal and self.grain != "dimension":
            raise ValueError("a causal policy needs one token for every (step, dimension)")

    @property
    def token_dim(self) -> int:
        """Action dimensions in one code token."""
        return self.action_dim if self.grain == "step" else 1

    @property
    def count(self) -> int:
        """Tokens of a chunk."""
        codes = self.horizon * self.action_dim // self.token_dim
        return codes + (self.horizon if self.flow_tokens else 0)

    def order(self, device: torch.device) -> Tensor:
        """(T,): a token sees those whose number here is not greater than its own."""
        if self.causal:
            return torch.arange(self.count, device=device)
        order = torch.zeros(self.count, dtype=torch.long, device=device)
        if self.flow_tokens:
            order[self.horizon :] = 1
        return order

    def of_tokens(self, of_steps: Tensor) -> Tensor:
        """For every token what there is for every step: (B, H) to (B, T)."""
        codes = of_steps if self.grain == "step" else of_steps.repeat_interleave(self.action_dim, 1)
        return torch.cat((of_steps, codes), dim=1) if self.flow_tokens else codes


class ActionTokens(nn.Module):
    """Projections of what a layout says into tokens of a width, and back.

    They compute in their weights' float32, also under autocast: in bfloat16 a noisy action would
    have 8 bits, and so would the coefficients of a peak one code wide.
    """

    def __init__(self, layout: TokenLayout, width: int) -> None:
        super().__init__()
        self.layout = layout
        flow = int(layout.flow_tokens)
        inputs = layout.token_dim * (layout.input_width - flow)
        self.width = width
        self.input = nn.Linear(inputs, width) if inputs else None
        self.output = nn.Linear(width, layout.token_dim * (layout.output_width - flow))
        self.flow_input = nn.Linear(layout.action_dim, width) if flow else None
        self.flow_output = nn.Linear(width, layout.action_dim) if flow else None

    def embed(self, noisy: Tensor) -> Tensor:
        """`noisy` (B, H, D, input width) -> tokens (B, T, C), for any whole number of tokens."""
        with _no_autocast(noisy):
            return self._embed(noisy.to(self.dtype))

    def read_out(self, tokens: Tensor, chunk: torch.Size) -> Tensor:
        """Tokens (B, T, C) -> (B, H, D, output width) for `chunk` (H, D)."""
        with _no_autocast(tokens):
            return self._read_out(tokens.to(self.dtype), chunk)

    @property
    def dtype(self) -> torch.dtype:
        return self.output.weight.dtype

    def _embed(self, noisy: Tensor) -> Tensor:
        rows = noisy.shape[0]
        count = noisy.shape[1] * noisy.shape[2] // self.layout.token_dim
        if self.flow_input is None:
            if self.input is None:
                return noisy.new_zeros(rows, count, self.width)
            return self.input(noisy.reshape(rows, count, -1))
        assert self.input is not None
        flow, codes = noisy[..., 0], noisy[..., 1:]
        return torch.cat((self.flow_input(flow), self.input(codes.reshape(rows, count, -1))), dim=1)

    def _read_out(self, tokens: Tensor, chunk: torch.Size) -> Tensor:
        rows = tokens.shape[0]
        if self.flow_output is None:
            return self.output(tokens).view(rows, *chunk, -1)
        flow = self.flow_output(tokens[:, : chunk[0]]).view(rows, *chunk, 1)
        codes = self.output(tokens[:, chunk[0] :]).view(rows, *chunk, -1)
        return torch.cat((flow, codes), dim=-1)


def _no_autocast(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)
