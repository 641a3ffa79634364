"""Real-time chunking by guidance, as LeRobot ships it: a peer of chunks that continue given steps.

Each step of flow matching is steered towards what is left of the last chunk: fully where it is
executed meanwhile, less and less over the rest (arXiv 2506.07339). It takes no training. What
steers is LeRobot's own processor with its own settings, here over all that is left. In LeRobot 0.6
it computes the velocity before it asks for gradients, so the correction is the bare error, not its
product with the Jacobian of the network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from e0.network.transformer import DecodingCache
from e0.objectives import FlowObjective, Sampling


def can_be_guided(policy: Any) -> bool:
    """Whether it is an E0 policy that learned flow matching."""
    return isinstance(getattr(getattr(policy, "model", None), "objective", None), FlowObjective)


def guided_chunk(policy: Any, batch: dict[str, Any], left: Tensor, delay: int) -> Tensor:
    """A chunk (1, H, D) in action units for a preprocessed batch of one observation.

    left: what is left of the last chunk (T, D); its first `delay` steps are executed meanwhile.
    """
    from lerobot.policies.rtc.configuration_rtc import RTCConfig
    from lerobot.policies.rtc.modeling_rtc import RTCProcessor

    model = policy.acting()
    processor = RTCProcessor(RTCConfig(execution_horizon=len(left)))
    with torch.inference_mode(False), torch.no_grad():
        target = model.tokenizer.standardize(left)
        encoded = model.network.encode_prefix(policy.observation(batch))

        def guided(noisy: Tensor, time: Tensor, cache: DecodingCache | None = None) -> Tensor:
            def velocity(actions: Tensor) -> Tensor:
                return model.network.denoise(encoded, actions[..., None], time)[..., 0].float()

            now = float(time[0])
            return processor.denoise_step(noisy[..., 0], target, delay, now, velocity)[..., None]

        settings = model.settings
        sampling = Sampling(settings.denoising_steps)
        return model.objective.sample(guided, 1, settings.horizon, sampling).actions
