"""What a policy learns and how it samples: one file per objective, everything else is shared.

e0              continuized discrete diffusion of tokens (ours)
flow            continuous diffusion: flow matching of actions
hybrid          flow and one-hot E0 in one network
masked          discrete diffusion by masking tokens
dfm             discrete flow matching: tokens jump nearer and nearer to the clean ones
autoregressive  one token after another
regression      the actions at once
mip             the actions at once, twice: from nothing and from noise of a tenth
"""

from e0.objectives.autoregressive import AutoregressiveObjective
from e0.objectives.dfm import DFMObjective
from e0.objectives.diffusion import E0Objective
from e0.objectives.flow import FlowObjective
from e0.objectives.hybrid import HybridObjective
from e0.objectives.interface import ActionChunk, Denoise, Objective, Sampling
from e0.objectives.masked import MaskedObjective
from e0.objectives.mip import MIPObjective
from e0.objectives.regression import RegressionObjective

__all__ = [
    "ActionChunk",
    "AutoregressiveObjective",
    "DFMObjective",
    "Denoise",
    "E0Objective",
    "FlowObjective",
    "HybridObjective",
    "MIPObjective",
    "MaskedObjective",
    "Objective",
    "RegressionObjective",
    "Sampling",
]
