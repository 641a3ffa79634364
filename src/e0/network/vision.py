"""Vision tower of the from-scratch presets: a convolutional stem read out as keypoints.

A spatial softmax turns each feature map into the place where its feature is (Levine et al., 2016,
"End-to-end training of deep visuomotor policies", arXiv 1504.00702). A small network learns to
localize far faster this way than with patch tokens, and a few tokens cost far less to attend to
than 144 patches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COORDINATE_WIDTH = 32  # sine and cosine features of each coordinate
PLACE_WIDTH = 2 * COORDINATE_WIDTH
SHARPNESS = 5.0  # multiplies the attention's logits, so that a fresh softmax soon finds a place


def sinusoidal(x: Tensor, width: int, shortest: float, longest: float) -> Tensor:
    """Sine and cosine features of scalars `x` (...) -> (..., width), periods in geometric steps."""
    steps = torch.linspace(0.0, 1.0, width // 2, dtype=x.dtype, device=x.device)
    period = shortest * (longest / shortest) ** steps
    angle = x[..., None] * (2 * math.pi / period)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def coordinates(height: int, width: int, device: torch.device) -> Tensor:
    """Row and column, each from -1 to 1, of the cells of a map: (height · width, 2)."""
    y = torch.linspace(-1.0, 1.0, height, device=device)
    x = torch.linspace(-1.0, 1.0, width, device=device)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).view(-1, 2)


def place_features(places: Tensor) -> Tensor:
    """Sine and cosine features (..., PLACE_WIDTH) of places (..., 2) as `coordinates` has them."""
    return sinusoidal(places, COORDINATE_WIDTH, 0.1, 8.0).flatten(-2)


@dataclass(frozen=True)
class KeypointShape:
    """Channels of the stem's convolutions, keypoints to find, and tokens that tell about them."""

    channels: tuple[int, ...]
    keypoints: int
    tokens: int


class KeypointTower(nn.Module):
    """Images -> a few tokens that say what is where.

    Each keypoint gives the feature it looks at and the place it looks to; a small network mixes all
    of them into `tokens` tokens. (Keypoints as tokens of their own were learned several times
    slower: attention first has to find out which of them matter.)
    """

    def __init__(self, shape: KeypointShape, width: int) -> None:
        super().__init__()
        channels, keypoints, tokens = shape.channels, shape.keypoints, shape.tokens
        layers: list[nn.Module] = []
        previous = 3
        for index, count in enumerate(channels):
            kernel, stride = (5, 2) if index == 0 else (3, 2 if index == 1 else 1)
            layers += [
                nn.Conv2d(previous, count, kernel, stride, kernel // 2, bias=False),
                nn.GroupNorm(4, count),
                nn.ReLU(inplace=True),
            ]
            previous = count
        self.stem = nn.Sequential(*layers)
        self.attention = nn.Conv2d(previous, keypoints, 1)
        hidden = 2 * width
        self.mix = nn.Sequential(
            nn.Linear(keypoints * (previous + PLACE_WIDTH), hidden),
            nn.GELU(),
            nn.Linear(hidden, tokens * width),
        )
        self.tokens = tokens

    def forward(self, images: Tensor) -> Tensor:
        """`images` (B, 3, height, width) in [0, 1] -> tokens (B, tokens, C)."""
        features = self._convolved(images * 2.0 - 1.0)
        height, width = features.shape[-2:]
        weight = (SHARPNESS * self.attention(features)).flatten(2).float().softmax(-1)
        seen = weight.to(features.dtype) @ features.flatten(2).transpose(1, 2)
        grid = coordinates(height, width, images.device)
        where = place_features(weight @ grid)
        mixed = self.mix(torch.cat((seen, where.to(seen.dtype)), dim=-1).flatten(1))
        return mixed.unflatten(-1, (self.tokens, -1))

    def _convolved(self, images: Tensor) -> Tensor:
        """The stem's features. On processors that compute in bfloat16 training does so here, where
        a small policy spends most of a step; what is found in the features, acting, and
        measuring a loss keep float32."""
        learns = self.training and torch.is_grad_enabled()
        if not (learns and images.device.type == "cpu" and computes_in_bfloat16()):
            return self.stem(images)
        with torch.autocast("cpu", torch.bfloat16):
            return self.stem(images).float()


@cache
def computes_in_bfloat16() -> bool:
    """Whether this machine's processor has instructions for it; emulated it is slower."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch cannot tell
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def resize(images: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    """Resize (B, 3, H, W) to fit into this height and width, and pad the rest with black.

    Padding keeps the aspect ratio, as in openpi and LeRobot's pi-0; without `antialias` the result
    is theirs.
    """
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    ratio = max(height / size[0], width / size[1])
    new_height, new_width = max(1, int(height / ratio)), max(1, int(width / ratio))
    images = F.interpolate(
        images,
        (new_height, new_width),
        mode="bilinear",
        align_corners=False,
        antialias=antialias,
    )
    bottom, right = size[0] - new_height, size[1] - new_width
    return F.pad(images, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
