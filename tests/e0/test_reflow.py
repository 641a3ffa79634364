"""Reflow: a policy that learned its own noise-to-chunk pairs needs fewer denoising steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from e0.network.policy_network import Observation
from e0.network.presets import PRESETS, find_preset
from e0.network.transformer import BlockShape
from e0.policy import Policy, PolicySettings
from e0.reflow import make_teacher, reflow_loss

B, H, D = 32, 3, 2
SHAPE = BlockShape(width=48, hidden=96, heads=2, key_value_heads=1, head_width=24)
SETTINGS = PolicySettings(
    cameras=(),
    vectors={"state": 2},
    action_dim=D,
    horizon=H,
    preset="narrow",
    use_instruction=False,
    vocabulary_size=32,
    noise_draws=1,
)
WAYS = torch.tensor([[-0.8, 0.6], [0.8, -0.6]])  # two equally good chunks


@pytest.fixture(autouse=True)
def narrow_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(find_preset("tiny"), prefix=SHAPE, suffix=SHAPE, depth=2, image_size=(32, 32))
    monkeypatch.setitem(PRESETS, "narrow", small)


def make_policy(**changes: object) -> Policy:
    torch.manual_seed(0)
    policy = Policy(replace(SETTINGS, **changes))  # pyright: ignore[reportArgumentType]
    policy.tokenizer.fit(torch.rand(2000, D) * 2 - 1, "uniform")
    return policy


def observe(count: int = B) -> Observation:
    return Observation({}, {"state": torch.zeros(count, 2)})


def undecided(count: int = B) -> Tensor:
    """Chunks that go one way or the other in all steps and dimensions: (count, H, D)."""
    way = WAYS[torch.randint(2, (count,))]
    return way[:, None] + 0.05 * torch.randn(count, H, D)


def optimize(policy: Policy, loss_of_batch, steps: int) -> None:
    optimizer = torch.optim.AdamW(policy.parameters(), 2e-3, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        loss_of_batch().mean().backward()
        optimizer.step()


def decided(policy: Policy, steps: int) -> tuple[float, float]:
    """Share of sampled chunks that go one way throughout, and share of the first way."""
    torch.manual_seed(5)
    actions = policy.sample(observe(400), steps=steps).actions
    close = [((actions - way).abs() < 0.3).flatten(1).all(1) for way in WAYS]
    return (close[0] | close[1]).float().mean().item(), close[0].float().mean().item()


@pytest.mark.parametrize("objective", ["e0", "flow"])
def test_one_step_does_what_ten_did(objective: str) -> None:
    policy = make_policy(objective=objective)
    valid = torch.ones(B, H, dtype=torch.bool)
    optimize(policy, lambda: policy.loss(observe(), undecided(), valid), 300)
    teacher = make_teacher(policy)
    ten, _ = decided(teacher, 10)
    one, _ = decided(teacher, 1)
    assert ten > 0.8 > one + 0.1, "the problem does not need several steps"
    optimize(policy, lambda: reflow_loss(policy, teacher, observe()), 300)
    straight, first = decided(policy, 1)
    assert straight > 0.8, f"{straight:.2f} at one step, {ten:.2f} at ten before"
    assert 0.35 < first < 0.65, "one of the two ways was lost"
    assert decided(teacher, 1) == (one, decided(teacher, 1)[1]), "the teacher has changed"


def test_the_noise_is_that_of_the_chunk() -> None:
    """Same pair, same loss: nothing else is drawn but the times."""
    policy = make_policy()
    noise = torch.randn(B, H, D, 1)
    valid = torch.ones(B, H, dtype=torch.bool)
    actions = undecided()

    def loss(given: Tensor) -> Tensor:
        torch.manual_seed(3)
        return policy.loss(observe(), actions, valid, given)

    for parameter in policy.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    torch.testing.assert_close(loss(noise), loss(noise.clone()), rtol=0, atol=0)
    assert not torch.allclose(loss(noise), loss(noise.flip(0)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "masked"}, "reflow needs the objective e0 or flow.* has 'masked'"),
        ({"objective": "regression"}, "this policy has 'regression'"),
        ({"objective": "mip"}, "this policy has 'mip'"),
        ({"objective": "dfm"}, "this policy has 'dfm'"),
        ({"sampler": "ancestral"}, "needs the deterministic sampler 'ddim'.* 'ancestral'"),
        ({"decoding": "adaptive"}, "needs the decoding 'fixed'.* 'adaptive'"),
    ],
)
def test_policies_without_pairs_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_teacher(make_policy(**changes))


@pytest.mark.parametrize(
    "objective", ["hybrid", "masked", "dfm", "autoregressive", "regression", "mip"]
)
def test_noise_is_refused_where_it_means_nothing(objective: str) -> None:
    policy, valid = make_policy(objective=objective), torch.ones(B, H, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"{objective} objective takes no noise"):
        policy.loss(observe(), undecided(), valid, torch.randn(B, H, D, 1))


@pytest.mark.parametrize("objective", ["e0", "flow"])
def test_noise_of_another_shape_is_refused(objective: str) -> None:
    policy, valid = make_policy(objective=objective), torch.ones(B, H, dtype=torch.bool)
    with pytest.raises(ValueError, match="noise must have"):
        policy.loss(observe(), undecided(), valid, torch.randn(B, H, D, 2))
