"""What every objective owes: shapes, padding, determinism, learning, saving, a gradient for all."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from e0.network.policy_network import Observation
from e0.network.presets import PRESETS, find_preset
from e0.network.transformer import BlockShape, DecodingCache
from e0.objectives.masked import MaskedObjective, _least
from e0.policy import Policy, PolicySettings

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
OBJECTIVES: dict[str, dict[str, Any]] = {
    "e0 ordinal": {"objective": "e0"},
    "e0 one_hot": {"objective": "e0", "embedding": "one_hot"},
    "hybrid": {"objective": "hybrid"},
    "flow": {"objective": "flow"},
    "masked": {"objective": "masked"},
    "masked, remask": {"objective": "masked", "remask": True},
    "dfm": {"objective": "dfm"},
    "autoregressive": {"objective": "autoregressive"},
    "regression": {"objective": "regression"},
    "regression, squared": {"objective": "regression", "regression_error": "squared"},
    "mip": {"objective": "mip"},
}
EVALUATIONS = {"autoregressive": H * D, "regression": 1, "regression, squared": 1, "mip": 2}
CERTAIN = ("regression", "regression, squared", "mip")
FROM_NOISE = {"e0 ordinal": 1, "e0 one_hot": 32, "hybrid": 33, "flow": 1}
every = pytest.mark.parametrize("name", OBJECTIVES)


@pytest.fixture(autouse=True)
def narrow_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(find_preset("tiny"), prefix=SHAPE, suffix=SHAPE, depth=2, image_size=(32, 32))
    monkeypatch.setitem(PRESETS, "narrow", small)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data() -> tuple[Observation, Tensor, Tensor]:
    """Observations, action chunks with a binary last dimension, and which steps are real."""
    actions = torch.rand(B, H, D, generator=seeded(2)) * torch.tensor([1.0, 4.0, 1.0])
    actions[..., -1] = (actions[..., -1] > 0.5).float()
    states = torch.randn(B, S, generator=seeded(1))
    return Observation({}, {"state": states}), actions, torch.ones(B, H, dtype=torch.bool)


def make_policy(name: str, **changes: Any) -> Policy:
    torch.manual_seed(0)
    policy = Policy(replace(SETTINGS, **OBJECTIVES[name], **changes))
    policy.tokenizer.fit(data()[1].reshape(-1, D), "kmeans")
    return policy


def shake(policy: Policy) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded(3)))


@every
def test_chunk_has_the_shape_and_the_range_of_the_data(name: str) -> None:
    policy = make_policy(name)
    shake(policy)
    observation, actions, _ = data()
    chunk = policy.sample(observation, steps=3, generator=seeded())
    assert chunk.actions.shape == (B, H, D) and chunk.actions.isfinite().all()
    low, high = actions.flatten(0, 1).amin(0), actions.flatten(0, 1).amax(0)
    assert (chunk.actions >= low - 1e-6).all() and (chunk.actions <= high + 1e-6).all()
    assert chunk.steps_taken == EVALUATIONS.get(name, 3)
    if name in ("flow", *CERTAIN):
        assert chunk.entropy is None
    else:
        assert chunk.entropy is not None and chunk.entropy.shape == (B, H, D)
        assert (chunk.entropy >= 0).all()


@every
def test_steps_are_the_evaluations_of_the_network(name: str) -> None:
    policy = make_policy(name)
    denoise, calls = policy.network.denoise, []

    def counted(*arguments: Any) -> Tensor:
        calls.append(1)
        return denoise(*arguments)

    policy.network.denoise = counted  # pyright: ignore[reportAttributeAccessIssue]
    for steps in (1, 2, 5, 40):
        calls.clear()
        taken = policy.sample(data()[0], steps=steps).steps_taken
        assert len(calls) == taken
        expected = EVALUATIONS.get(name, steps)
        assert taken == expected or (name.startswith("masked") and taken < steps == 40)
    with pytest.raises(ValueError, match="at least 1"):
        policy.sample(data()[0], steps=0)


@every
def test_sampling_follows_the_generator(name: str) -> None:
    policy = make_policy(name)
    shake(policy)
    observation = data()[0]
    first, again, other = (
        policy.sample(observation, steps=3, generator=seeded(s)).actions for s in (0, 0, 1)
    )
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert torch.equal(first, other) == (name in CERTAIN)


@every
def test_noise_fixes_the_start_or_is_refused(name: str) -> None:
    policy = make_policy(name)
    observation = data()[0]
    if name not in FROM_NOISE:
        with pytest.raises(ValueError, match="takes no noise"):
            policy.sample(observation, noise=torch.zeros(B, H, D, 1))
        return
    noise = torch.randn(B, H, D, FROM_NOISE[name], generator=seeded())
    chunks = [policy.sample(observation, noise=noise).actions for _ in range(2)]
    torch.testing.assert_close(*chunks, rtol=0, atol=0)
    with pytest.raises(ValueError, match="noise must have shape"):
        policy.sample(observation, noise=noise[:, :-1])


@every
def test_padded_steps_change_no_loss_and_no_gradient(name: str) -> None:
    policy = make_policy(name)
    shake(policy)
    observation, actions, valid = data()
    valid[:, -1] = False
    spoiled = actions.clone()
    spoiled[:, -1] = actions[:, -1].flip(0)
    assert not torch.equal(spoiled, actions)

    def gradient(chunks: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(5)
        policy.zero_grad()
        loss = policy.loss(observation, chunks, valid)
        loss.sum().backward()
        return loss, policy.network.action_tokens.output.weight.grad.clone()  # pyright: ignore

    for one, two in zip(gradient(actions), gradient(spoiled), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


@every
def test_every_parameter_gets_a_gradient(name: str) -> None:
    policy = make_policy(name)
    shake(policy)
    policy.loss(*data()).mean().backward()
    without = [
        key
        for key, parameter in policy.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


@every
def test_one_batch_is_learned_and_survives_saving(name: str) -> None:
    """The observations tell the chunks exactly, so sampling gives them back."""
    policy = make_policy(name)
    observation, actions, valid = data()
    optimizer = torch.optim.AdamW(policy.parameters(), 3e-3, weight_decay=0.0)
    torch.manual_seed(1)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, 2 * (1 - step / 300))
        loss = policy.loss(observation, actions, valid).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy.eval()
    loaded = make_policy(name)
    loaded.load_state_dict(policy.state_dict(), strict=True)
    chunk = loaded.sample(observation, steps=10, generator=seeded()).actions
    torch.testing.assert_close(
        chunk, policy.sample(observation, steps=10, generator=seeded()).actions, rtol=0, atol=0
    )
    error = ((chunk - actions) / actions.flatten(0, 1).std(0)).abs()
    assert error.mean() < 0.06, f"{error.mean():.3f} deviations off"


def test_cached_decoding_equals_the_whole_sequence() -> None:
    policy = make_policy("autoregressive")
    shake(policy)
    network = policy.network
    prefix = network.encode_prefix(data()[0])
    inputs = torch.randn(B, H * D, 1, 32, generator=seeded(4))
    time = torch.zeros(B)
    whole = network.denoise(prefix, inputs, time)
    cache = DecodingCache()
    pieces = [network.denoise(prefix, inputs[:, i : i + 1], time, cache) for i in range(H * D)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-4)


def test_causal_tokens_see_nothing_that_follows() -> None:
    policy = make_policy("autoregressive")
    shake(policy)
    prefix = policy.network.encode_prefix(data()[0])
    inputs = torch.randn(B, H * D, 1, 32, generator=seeded(4))
    changed = inputs.clone()
    changed[:, 7] += 1.0
    before, after = (policy.network.denoise(prefix, x, torch.zeros(B)) for x in (inputs, changed))
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert (before[:, 7:] - after[:, 7:]).abs().flatten(1).amax(1).min() > 1e-4


def test_masked_sampling_reveals_along_the_cosine_and_keeps_what_it_revealed() -> None:
    policy = make_policy("masked")
    shake(policy)
    seen: list[Tensor] = []
    denoise = policy.network.denoise

    def watched(prefix: Any, noisy: Tensor, time: Tensor) -> Tensor:
        seen.append(noisy)
        return denoise(prefix, noisy, time)

    policy.network.denoise = watched  # pyright: ignore[reportAttributeAccessIssue]
    policy.sample(data()[0], steps=4, generator=seeded())
    hidden = [noisy[..., -1].flatten(1).bool() for noisy in seen]
    counts = [h.sum(1).unique().tolist() for h in hidden]
    assert counts == [[12], [11], [8], [4]]  # floor(12 cos(πk/8))
    for earlier, later in pairwise(seen):
        kept = earlier[..., -1] == 0
        assert torch.equal(earlier[kept], later[kept])


def test_the_least_confident_stay_hidden() -> None:
    confidence = torch.tensor([[[3.0, 1.0], [torch.inf, 2.0]]])
    assert _least(confidence, 2).tolist() == [[[False, True], [False, True]]]


@pytest.mark.parametrize(("error", "best"), [("absolute", 0.0), ("squared", 0.25)])
def test_regression_tends_to_the_median_or_the_mean(error: str, best: float) -> None:
    policy = make_policy("regression", regression_error=error)
    policy.tokenizer.fit(torch.tensor([[-1.0] * D, [1.0] * D]))  # standardized as they are
    actions = torch.tensor([0.0, 0.0, 0.0, 1.0])[:, None, None].expand(4, H, D)
    valid = torch.ones(4, H, dtype=torch.bool)

    def loss(constant: float) -> float:
        def denoise(noisy: Tensor, time: Tensor, cache: DecodingCache | None = None) -> Tensor:
            return torch.full((*noisy.shape[:3], 1), constant)

        return float(policy.objective.loss(denoise, actions, valid, 1).mean())

    tried = [step / 20 for step in range(-20, 21)]
    assert min(tried, key=loss) == best


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "diffusion"}, "unknown objective.*known: e0, flow"),
        ({"temperature": -1.0}, "temperature"),
        ({"objective": "masked", "temperature": float("nan")}, "temperature"),
        ({"objective": "masked", "confidence_noise": -0.1}, "confidence_noise"),
        ({"objective": "autoregressive", "temperature": -1.0}, "temperature"),
        ({"objective": "hybrid", "mean_weight": -1.0}, "mean_weight"),
        ({"objective": "regression", "regression_error": "l2"}, "absolute.*squared"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Policy(replace(SETTINGS, **change))


def test_temperature_zero_draws_nothing_by_chance() -> None:
    policy = make_policy("autoregressive", temperature=0.0)
    assert not isinstance(policy.objective, MaskedObjective)
    shake(policy)
    chunks = [policy.sample(data()[0], generator=seeded(s)).actions for s in (0, 1)]
    torch.testing.assert_close(*chunks, rtol=0, atol=0)
