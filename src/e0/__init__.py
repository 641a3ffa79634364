"""E0: a robot policy that generates action chunks by continuized (Tweedie) discrete diffusion.

The package holds the method and needs torch alone. Read it in this order: `tokens` (actions to
tokens and back), `diffusion` (noise, posterior mean, samplers), `network` (observation in, logits
out), `objectives` (loss and sampling), `policy` (the four together).
"""

from e0.network.policy_network import Observation
from e0.objectives import ActionChunk
from e0.policy import Policy, PolicySettings
from e0.prefix import Prefix, PrefixError
from e0.tokens import ActionTokenizer

__all__ = [
    "ActionChunk",
    "ActionTokenizer",
    "Observation",
    "Policy",
    "PolicySettings",
    "Prefix",
    "PrefixError",
]
