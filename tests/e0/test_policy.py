"""The policy as a whole: padding, learning, determinism, saving, and every option end to end."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from e0.network.language import encode_instructions
from e0.network.policy_network import Observation
from e0.network.presets import PRESETS, find_preset
from e0.network.transformer import BlockShape
from e0.policy import Policy, PolicySettings
from e0.tokens import TokenizerNotFittedError

B, H, D, S = 6, 4, 3, 5
SHAPE = BlockShape(width=48, hidden=96, heads=2, key_value_heads=1, head_width=24)
SETTINGS = PolicySettings(
    cameras=(),
    vectors={"state": S},
    action_dim=D,
    horizon=H,
    preset="narrow",
    use_instruction=False,
    vocabulary_size=32,
)


@pytest.fixture(autouse=True)
def narrow_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(find_preset("tiny"), prefix=SHAPE, suffix=SHAPE, depth=2, image_size=(32, 32))
    monkeypatch.setitem(PRESETS, "narrow", small)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(batch: int = B) -> tuple[Observation, Tensor, Tensor]:
    """Observations, action chunks with a binary last dimension, and which steps are real."""
    states = torch.randn(batch, S, generator=seeded(1))
    actions = torch.rand(batch, H, D, generator=seeded(2)) * torch.tensor([1.0, 4.0, 1.0])
    actions[..., -1] = (actions[..., -1] > 0.5).float()
    return Observation({}, {"state": states}), actions, torch.ones(batch, H, dtype=torch.bool)


def make_policy(**changes) -> Policy:
    torch.manual_seed(0)
    policy = Policy(replace(SETTINGS, **changes))
    policy.tokenizer.fit(data()[1].reshape(-1, D), "kmeans")
    return policy


def train(policy: Policy, steps: int, rate: float = 3e-3) -> float:
    """Loss of the last of `steps` steps on the one small batch."""
    observation, actions, valid = data()
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    loss = torch.tensor(math.nan)
    for _ in range(steps):
        loss = policy.loss(observation, actions, valid).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return loss.item()


def test_a_fresh_policy_knows_no_code_from_another() -> None:
    """With the plain head and loss: the logarithm of a dimension's number of codes."""
    policy = make_policy(head="linear", mean_weight=0.0)
    counts = policy.tokenizer.code_count
    assert counts.tolist() == [B * H, B * H, 2]
    expected = counts.float().log()
    losses = policy.loss(*data())
    assert losses.shape == (B,)
    assert losses.mean().item() == pytest.approx(expected.mean().item(), rel=0.25)
    entropy = policy.sample(data()[0]).entropy.mean(dim=(0, 1))
    torch.testing.assert_close(entropy, expected, rtol=0.2, atol=0.0)


def test_the_error_of_the_mean_is_added_to_the_loss() -> None:
    def losses(weight: float) -> Tensor:
        policy = make_policy(mean_weight=weight)
        torch.manual_seed(5)
        return policy.loss(*data())

    none, one, two = losses(0.0), losses(1.0), losses(2.0)
    assert (one > none).all()
    torch.testing.assert_close(two - one, one - none)


def test_padded_steps_change_nothing() -> None:
    policy = make_policy()
    observation, actions, valid = data()
    valid[0, 2:], valid[1] = False, False

    def loss_and_gradient(actions: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(5)
        losses = policy.loss(observation, actions, valid)
        policy.zero_grad()
        losses.sum().backward()
        gradient = policy.network.action_tokens.output.weight.grad
        assert gradient is not None
        return losses.detach(), gradient.clone()

    other = actions.clone()
    other[0, 2:] = actions[0, 2:].flip(-1) * 0.3
    other[1] = 0.0
    assert not torch.equal(policy.tokenizer.encode(actions), policy.tokenizer.encode(other))
    losses, gradient = loss_and_gradient(actions)
    other_losses, other_gradient = loss_and_gradient(other)
    assert torch.equal(losses, other_losses) and torch.equal(gradient, other_gradient)
    assert losses[1] == 0 and (losses[[0, 2]] > 0).all()
    real = actions.clone()
    real[0, 0] = 1 - actions[0, 0]
    assert not torch.equal(loss_and_gradient(real)[0], losses)


def test_a_chunk_of_another_shape_is_refused() -> None:
    policy = make_policy()
    observation, actions, valid = data()
    with pytest.raises(ValueError, match=r"expected actions \(B, 4, 3\).*got \(6, 3, 3\)"):
        policy.loss(observation, actions[:, 1:], valid[:, 1:])
    with pytest.raises(ValueError, match=r"valid \(B, 4\), got \(6, 4, 3\) and \(6, 3\)"):
        policy.loss(observation, actions, valid[:, 1:])


WAYS = {
    "default": {},
    "cosine": {"schedule": "cosine"},
    "one_hot": {"embedding": "one_hot"},
    "linear": {"head": "linear", "mean_weight": 0.0},
    "ancestral": {"time_distribution": "uniform", "sampler": "ancestral"},
}


@pytest.mark.parametrize("changes", list(WAYS.values()), ids=list(WAYS))
def test_one_batch_is_learned_and_reproduced(changes: dict[str, str]) -> None:
    policy = make_policy(**changes)
    assert train(policy, 200) < 0.1
    observation, actions, _ = data()
    chunk = policy.sample(observation, generator=seeded(7))
    codes = policy.tokenizer.decode(policy.tokenizer.encode(actions))
    torch.testing.assert_close(chunk.actions, codes, atol=0, rtol=0)
    assert chunk.entropy.mean() < 0.3  # nats; an ignorant posterior has ln 32 = 3.5


def test_noise_draws_share_one_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(noise_draws=3)
    encoded, rows = [], []
    encode, denoise = policy.network.encode_prefix, policy.network.denoise
    monkeypatch.setattr(policy.network, "encode_prefix", lambda o: encoded.append(1) or encode(o))
    monkeypatch.setattr(
        policy.network, "denoise", lambda p, x, t: rows.append(len(x)) or denoise(p, x, t)
    )
    assert policy.loss(*data()).shape == (B,)
    assert (len(encoded), rows) == (1, [3 * B])


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_samples_follow_the_generator_alone(sampler: str) -> None:
    policy, observation = make_policy(sampler=sampler), data()[0]
    first = policy.sample(observation, generator=seeded(3))
    torch.manual_seed(99)
    again = policy.sample(observation, generator=seeded(3))
    other = policy.sample(observation, generator=seeded(4))
    assert torch.equal(first.actions, again.actions)
    assert torch.equal(first.entropy, again.entropy)
    assert not torch.equal(first.entropy, other.entropy)


def test_given_noise_fixes_the_sample() -> None:
    policy, observation = make_policy(), data()[0]
    noise = torch.randn(B, H, D, 1, generator=seeded(3))
    entropies = [policy.sample(observation, noise=noise).entropy for _ in range(2)]
    assert torch.equal(*entropies)
    with pytest.raises(ValueError, match=r"noise must have shape \(6, 4, 3, 1\)"):
        policy.sample(observation, noise=noise[:2])


@pytest.mark.parametrize("objective", ["e0", "flow"])
def test_from_zero_there_is_no_chance(objective: str) -> None:
    policy, observation = make_policy(objective=objective, start="zero"), data()[0]
    zeros = torch.zeros(B, H, D, 1)
    chunks = [policy.sample(observation).actions for _ in range(2)]
    assert torch.equal(chunks[0], chunks[1])
    assert torch.equal(chunks[0], policy.sample(observation, noise=zeros).actions)
    noise = torch.randn(B, H, D, 1, generator=seeded(3))
    noisy = make_policy(objective=objective)
    given = [p.sample(observation, noise=noise).actions for p in (policy, noisy)]
    assert torch.equal(*given), "noise that is given counts"


def test_a_saved_policy_is_the_same_policy() -> None:
    policy, (observation, actions, _) = make_policy(), data()
    loaded = Policy(policy.settings)
    with pytest.raises(TokenizerNotFittedError):
        loaded.sample(observation)
    loaded.load_state_dict(policy.state_dict(), strict=True)
    one, two = (p.sample(observation, generator=seeded(3)) for p in (policy, loaded))
    assert torch.equal(one.actions, two.actions) and torch.equal(one.entropy, two.entropy)
    assert torch.equal(policy.tokenizer.encode(actions), loaded.tokenizer.encode(actions))
    incomplete = {k: v for k, v in policy.state_dict().items() if "codebook" not in k}
    with pytest.raises(RuntimeError, match="codebook"):
        loaded.load_state_dict(incomplete, strict=True)


def test_a_prefix_is_copied_between_objectives() -> None:
    observation = Observation(
        {"front": torch.rand(B, 3, 32, 32)},
        data()[0].vectors,
        encode_instructions(["go"] * B, 8, PRESETS["narrow"].language.patch),
    )
    seeing = {"cameras": ("front",), "use_instruction": True}
    own, other = make_policy(**seeing), make_policy(**seeing, objective="regression")
    suffix = [p.clone() for p in own.network.suffix_blocks.parameters()]
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))

    def keys(policy: Policy) -> Tensor:
        return policy.network.encode_prefix(observation).layers[-1].keys

    assert not torch.equal(keys(own), keys(other))
    own.copy_prefix(other)
    assert torch.equal(keys(own), keys(other))
    assert all(map(torch.equal, own.network.suffix_blocks.parameters(), suffix))
    assert own.network.prefix_parameters()["camera_identity"].requires_grad
    # The names tell all that matters: no prefix depends on any other parameter.
    keys(own).sum().backward()
    touched = {n for n, p in own.network.named_parameters() if p.grad is not None}
    assert touched <= own.network.prefix_parameters().keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": {"state": S, "force": 2}}, "the same vectors"),
        ({"use_instruction": True}, "the same use_instruction: this one has False"),
        ({"preset": "tiny"}, "the same preset: this one has narrow, the other has tiny"),
    ],
)
def test_a_prefix_of_another_kind_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy().copy_prefix(make_policy(**changes))


class Patches(nn.Module):
    """A tower of one's own: patches of 16 pixels, of which one part was trained before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pretrained = nn.Conv2d(3, 8, 16, 16)
        self.projection = nn.Linear(8, width)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(self.pretrained(images).flatten(2).transpose(1, 2))


def seeing(tower: nn.Module | None) -> Policy:
    policy = Policy(replace(SETTINGS, cameras=("front",)), tower)
    policy.tokenizer.fit(data()[1].reshape(-1, D))
    return policy


def test_a_policy_sees_with_the_tower_that_it_is_given() -> None:
    tower = Patches(SHAPE.width)
    policy = seeing(tower)
    states, actions, valid = data()
    observation = replace(states, images={"front": torch.rand(B, 3, 48, 64)})
    assert policy.network.encode_prefix(observation).mask.shape == (B, 4 + 1)
    policy.network.freeze(vision=True)
    policy.loss(observation, actions, valid).mean().backward()
    assert tower.pretrained.weight.grad is None
    assert tower.projection.weight.grad is not None
    twin = seeing(Patches(SHAPE.width))
    twin.copy_prefix(policy)
    torch.testing.assert_close(twin.network.tower.state_dict(), tower.state_dict())
    with pytest.raises(ValueError, match="this one has KeypointTower, the other has Patches"):
        seeing(None).copy_prefix(policy)


def test_a_tower_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no camera to look through"):
        Policy(SETTINGS, Patches(SHAPE.width))
    observation = replace(data()[0], images={"front": torch.rand(B, 3, 32, 32)})
    with pytest.raises(ValueError, match=r"give tokens \(N, P, 48\), got \(6, 4, 47\)"):
        seeing(Patches(47)).sample(observation)


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_each_denoising_step_is_one_evaluation(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, observation = make_policy(denoising_steps=steps), data()[0]
    times: list[float] = []
    denoise = policy.network.denoise
    monkeypatch.setattr(
        policy.network, "denoise", lambda p, x, t: times.append(t[0].item()) or denoise(p, x, t)
    )
    chunk = policy.sample(observation, keep_trace=True)
    assert chunk.steps_taken == len(times) == steps
    assert chunk.trace is not None and len(chunk.trace) == steps
    assert times == pytest.approx([1 - k / steps for k in range(steps)])
    times.clear()
    assert policy.sample(observation, steps=2).steps_taken == len(times) == 2
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        policy.sample(observation, steps=0)


def test_early_stop_ends_when_no_token_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, observation = make_policy(early_stop=True, denoising_steps=10), data()[0]
    fixed = torch.randn(B, H, D, 32, generator=seeded(1))
    monkeypatch.setattr(policy.network, "denoise", lambda p, x, t: fixed)
    assert policy.sample(observation).steps_taken == 2
    monkeypatch.setattr(
        policy.network, "denoise", lambda p, x, t: fixed.roll(round(10 * t[0].item()), -1)
    )
    assert policy.sample(observation).steps_taken == 10


@pytest.mark.parametrize("head", ["cosine", "linear"])
def test_entropy_is_of_each_token_and_bounded_by_its_codes(head: str) -> None:
    policy, observation = make_policy(head=head), data()[0]
    chunk = policy.sample(observation)
    assert chunk.actions.shape == chunk.entropy.shape == (B, H, D)
    limit = policy.tokenizer.code_count.float().log() + 1e-5
    assert (chunk.entropy > 0).all() and (chunk.entropy <= limit).all()


def test_window_mean_lies_near_the_best_code() -> None:
    noise, observation = torch.randn(B, H, D, 1, generator=seeded(3)), data()[0]
    best = make_policy().sample(observation, noise=noise).actions
    policy = make_policy(read_out="window_mean", vocabulary_size=32)
    near = policy.sample(observation, noise=noise).actions
    codebook = policy.tokenizer.codebook
    window = 0.02 * (codebook[:, -1] - codebook[:, 0])
    assert ((near - best).abs() <= window + 1e-6).all()
    assert not torch.equal(near, best)


def test_images_vectors_and_instruction_together() -> None:
    torch.manual_seed(0)
    settings = replace(SETTINGS, cameras=("front", "wrist"), use_instruction=True)
    policy = Policy(settings)
    policy.tokenizer.fit(data()[1].reshape(-1, D))
    observation = Observation(
        {"front": torch.rand(B, 3, 32, 32), "wrist": torch.rand(B, 3, 24, 40)},
        data()[0].vectors,
        encode_instructions(
            ["push the cube", "抽屉"] * 3, 64, policy.network.preset.language.patch
        ),
    )
    losses = policy.loss(observation, *data()[1:])
    losses.mean().backward()
    assert torch.isfinite(losses).all()
    assert policy.sample(observation).actions.shape == (B, H, D)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"denoising_steps": 0}, "denoising_steps must be at least 1"),
        ({"noise_draws": -1}, "noise_draws must be at least 1"),
        ({"action_dim": 0}, "action_dim must be at least 1"),
        ({"vocabulary_size": 1}, "vocabulary_size must be at least 2"),
        ({"preset": "huge"}, "unknown network preset 'huge'"),
        ({"objective": "flows"}, "unknown objective 'flows'; known: .*e0"),
        ({"head": "softmax"}, "unknown head 'softmax'; known: cosine, linear"),
        ({"mean_weight": -1.0}, "mean_weight must not be negative"),
        ({"mean_weight": math.nan}, "mean_weight must not be negative, got nan"),
        ({"embedding": "fourier"}, "unknown embedding 'fourier'; known: ordinal, one_hot"),
        ({"schedule": "exp"}, "unknown schedule 'exp'; known: linear, cosine"),
        ({"time_distribution": "normal"}, "unknown time distribution 'normal'"),
        ({"sampler": "euler"}, "unknown sampler 'euler'"),
        ({"read_out": "mode"}, "unknown read-out 'mode'; known: argmax, median"),
        ({"start": "one"}, "unknown start 'one'; known: noise, zero"),
        ({"start": "one", "objective": "flow"}, "unknown start 'one'; known: noise, zero"),
    ],
)
def test_impossible_settings_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Policy(replace(SETTINGS, **changes))
