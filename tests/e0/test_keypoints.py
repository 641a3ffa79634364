"""The convolutional stem in bfloat16, as it is trained where the processor computes in it."""

import pytest
import torch

from e0.network import vision
from e0.network.presets import PRESETS
from e0.network.vision import KeypointShape, KeypointTower


@pytest.fixture
def tower() -> KeypointTower:
    torch.manual_seed(0)
    shape = PRESETS["tiny"].vision
    assert isinstance(shape, KeypointShape)
    return KeypointTower(shape, width=64)


def tokens_and_gradient(
    tower: KeypointTower, images: torch.Tensor, bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> tuple[torch.Tensor, torch.Tensor]:
    monkeypatch.setattr(vision, "computes_in_bfloat16", lambda: bfloat16)
    tower.zero_grad()
    tokens = tower(images)
    tokens.square().mean().backward()
    first = next(tower.stem.parameters()).grad
    assert first is not None
    return tokens.detach(), first.clone()


def test_bfloat16_is_near_float32(tower: KeypointTower, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(8, 3, 64, 64)
    exact, exact_gradient = tokens_and_gradient(tower.train(), images, False, monkeypatch)
    fast, fast_gradient = tokens_and_gradient(tower, images, True, monkeypatch)
    assert fast.dtype is torch.float32 and fast_gradient.dtype is torch.float32
    assert not torch.equal(fast, exact)
    assert (fast - exact).std() < 0.02 * exact.std()
    assert (fast_gradient - exact_gradient).norm() < 0.2 * exact_gradient.norm()


def test_acting_keeps_float32(tower: KeypointTower, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(2, 3, 64, 64)
    exact, _ = tokens_and_gradient(tower.eval(), images, False, monkeypatch)
    torch.testing.assert_close(tokens_and_gradient(tower, images, True, monkeypatch)[0], exact)
