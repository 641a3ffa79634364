"""From what the network puts out to logits over the codes of every (step, dimension).

`linear` is the usual head: one output per code. It has to find out by itself that neighbouring
codes mean nearly the same, and on small data it learns that first and the observation later.
`cosine` knows it: the network puts out K coefficients of cosines over the code's rank, low
frequencies first. Its size does not grow with the vocabulary, and as logits are unbounded a peak
may still become as narrow as one code.

Shapes: B chunks, H steps, D action dimensions, V codes, K coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from e0.diffusion import OrdinalEmbedding, cross_entropy, mean_over_valid
from e0.token_loss import token_loss
from e0.tokens import ActionTokenizer

HEADS = ("cosine", "linear")
COEFFICIENTS = 64
MEAN_LIMIT = 3.0  # standard deviations


def head_width(head: str, vocabulary_size: int) -> int:
    """Network outputs for every (step, dimension). Raises ValueError for an unknown head."""
    if head not in HEADS:
        raise ValueError(f"unknown head {head!r}; known: {', '.join(HEADS)}")
    return vocabulary_size if head == "linear" else min(COEFFICIENTS, vocabulary_size)


def cosine_basis(code_count: Tensor, vocabulary_size: int) -> Tensor:
    """Cosines cos(πk(v + ½)/n) for k = 1..K over the rank v of a dimension's n codes: (D, K, V).

    code_count: (D,), n of each dimension. They are the cosine transform's (DCT-II), scaled by
    2/√k, so that a fresh network starts with smooth logits. Beyond rank n they are zero.
    """
    rank = torch.arange(vocabulary_size, device=code_count.device)
    frequency = 1 + torch.arange(head_width("cosine", vocabulary_size), device=code_count.device)
    place = ((rank + 0.5) / code_count[:, None]).clamp(max=1.0)
    cosines = torch.cos(math.pi * frequency[:, None] * place[:, None, :])
    return cosines * (2.0 / frequency.sqrt())[:, None] * (rank < code_count[:, None])[:, None]


def padding_bias(code_count: Tensor, vocabulary_size: int) -> Tensor:
    """0 for a dimension's codes and -inf for the padding of its codebook row: (D, V)."""
    rank = torch.arange(vocabulary_size, device=code_count.device)
    bias = torch.zeros(len(code_count), vocabulary_size, device=code_count.device)
    return bias.masked_fill(rank >= code_count[:, None], -torch.inf)


def cosine_logits(coefficients: Tensor, basis: Tensor, bias: Tensor) -> Tensor:
    """Logits (B, H, D, V) of coefficients (B, H, D, K), a basis (D, K, V) and what is added (D, V),
    in float32 also under autocast. In memory the codes of a dimension lie together."""
    with torch.autocast(coefficients.device.type, enabled=False):
        of_dimension = coefficients.float().movedim(2, 0)
        logits = torch.baddbmm(bias[:, None], of_dimension.flatten(1, 2), basis)
        return logits.unflatten(1, of_dimension.shape[1:3]).movedim(0, 2)


@dataclass(frozen=True, eq=False)
class TokenHead:
    """Head and loss of every objective that predicts codes, so that they differ in nothing else.

    The loss is the cross-entropy plus `mean_weight` times the squared error of the codes' mean
    value Σ p c, in standard deviations of the data. The exact posterior is the minimum of both, so
    the second term changes no optimum, but it tells a wrong guess in which direction the truth
    lies. Values count up to three deviations: codes far away, which a single outlier brings about,
    would make it many times the cross-entropy.

    ready: what `logits` gives, if `prepared` has made it.

    Raises ValueError for an unknown head and a negative weight.
    """

    tokenizer: ActionTokenizer
    kind: str = "cosine"
    mean_weight: float = 1.0
    ready: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        head_width(self.kind, self.tokenizer.vocabulary_size)
        if not self.mean_weight >= 0:
            raise ValueError(f"mean_weight must not be negative, got {self.mean_weight}")

    @property
    def width(self) -> int:
        """Network outputs for every (step, dimension)."""
        return head_width(self.kind, self.tokenizer.vocabulary_size)

    def logits(self) -> Callable[[Tensor], Tensor]:
        """A function from outputs (B, H, D, width) to logits (B, H, D, V) over the codes that each
        dimension really has. Make it once per chunk: it holds tables."""
        if self.ready is not None:
            return self.ready
        count, size = self.tokenizer.code_count, self.tokenizer.vocabulary_size
        bias = padding_bias(count, size)
        if self.kind == "linear":
            return lambda outputs: outputs.float() + bias
        basis = cosine_basis(count, size)
        return lambda outputs: cosine_logits(outputs, basis, bias)

    def prepared(self) -> TokenHead:
        """This head with its tables made once and for all, as the tokenizer is now."""
        return replace(self, ready=self.logits())

    def loss(self, logits: Tensor, tokens: Tensor, valid: Tensor) -> Tensor:
        """Loss of each chunk (B,), over the valid ones of tokens (B, H, D); see `cross_entropy`."""
        if self.mean_weight == 0:
            return cross_entropy(logits, tokens, valid)
        values = OrdinalEmbedding(self.tokenizer, limit=MEAN_LIMIT).table()
        return mean_over_valid(token_loss(logits, tokens, values, self.mean_weight), valid)
