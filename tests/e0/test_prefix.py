"""Chunks that continue given steps: what is given, how it is trained, and what comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from e0 import policy as policy_module
from e0.network.action_tokens import TokenLayout
from e0.objectives import Sampling
from e0.policy import Policy, PolicySettings
from e0.prefix import SHARE_WITHOUT, Prefix, PrefixError, draw_given, times_of_steps
from e0.reflow import reflow_loss
from small_policies import LAYOUTS, D, H, make_policy, observe, seeded

OBJECTIVES: dict[str, dict[str, Any]] = {
    "e0": {},
    "one_hot": {"embedding": "one_hot"},
    "ancestral": {"sampler": "ancestral", "schedule": "cosine"},
    "adaptive": {"decoding": "adaptive", "decoding_draws": 3},
    "early_stop": {"early_stop": True},
    "flow": {"objective": "flow"},
    "hybrid": {"objective": "hybrid"},
    "masked": {"objective": "masked"},
    "remask": {"objective": "masked", "remask": True},
    "dfm": {"objective": "dfm"},
    "autoregressive": {"objective": "autoregressive"},
}
every = pytest.mark.parametrize("own", OBJECTIVES.values(), ids=OBJECTIVES)


def given_steps(*counts: int, seed: int = 7) -> Prefix:
    """As many given steps of each chunk; what is not given is NaN."""
    mask = torch.arange(H) < torch.tensor(counts)[:, None]
    actions = torch.randn(len(counts), H, D, generator=seeded(seed))
    return Prefix(actions.masked_fill(~mask[..., None], torch.nan), mask)


# What is given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": torch.zeros(2, H, D + 1)}, r"needs actions of shape \(2, 4, 3\).*\(2, 4, 4\)"),
        ({"actions": torch.zeros(1, H, D)}, r"got \(1, 4, 3\)"),
        ({"mask": torch.ones(2, H + 1, dtype=torch.bool)}, r"bool mask of shape \(2, 4\)"),
        ({"mask": torch.ones(2, H)}, "got .*float32"),
        ({"mask": torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).bool()}, r"only the first .*\[1\]"),
        ({"mask": torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0]]).bool()}, r"only the first .*\[0\]"),
        ({"mask": torch.ones(2, H, dtype=torch.bool)}, r"all 4 steps of the chunks \[0, 1\]"),
        ({"actions": torch.full((2, H, D), torch.nan)}, r"NaN or infinity .* chunks \[0\]"),
        ({"actions": torch.full((2, H, D), torch.inf)}, r"NaN or infinity .* chunks \[0\]"),
    ],
)
def test_a_prefix_that_is_none_is_refused(change: dict[str, Tensor], message: str) -> None:
    policy = make_policy("tiny")
    with pytest.raises(PrefixError, match=message):
        policy.sample(observe(policy, 2), prefix=replace(given_steps(1, 0), **change))


def test_steps_become_the_first_of_a_chunk() -> None:
    steps = torch.randn(2, 3, D)
    prefix = Prefix.of_steps(steps, H)
    assert prefix.actions[:, :3].equal(steps) and prefix.actions.shape == (2, H, D)
    assert prefix.mask.tolist() == [[True, True, True, False]] * 2
    assert not Prefix.of_steps(steps[:, :0], H).mask.any()
    for wrong in (torch.randn(2, H, D), steps[0]):
        with pytest.raises(PrefixError, match="d < 4"):
            Prefix.of_steps(wrong, H)


@pytest.mark.parametrize("objective", ["regression", "mip"])
def test_what_sees_the_observation_alone_continues_nothing(objective: str) -> None:
    policy = make_policy("tiny", objective=objective)
    with pytest.raises(PrefixError, match=f"the {objective} objective cannot .* train a policy"):
        policy.sample(observe(policy, 1), prefix=given_steps(1))
    with pytest.raises(PrefixError, match=f"the {objective} objective cannot"):
        replace(policy.settings, rtc_training_max_delay=1)


@pytest.mark.parametrize("longest", [-1, H])
def test_a_delay_leaves_a_step(longest: int) -> None:
    with pytest.raises(ValueError, match="rtc_training_max_delay must lie between 0 and 3"):
        PolicySettings(("base",), {}, D, H, rtc_training_max_delay=longest)


# The network


def test_the_time_of_a_step_is_that_of_its_tokens() -> None:
    steps = torch.tensor([[1.0, 2.0]])
    one = TokenLayout(2, 3, 1, 1)
    many = replace(one, grain="dimension")
    assert one.of_tokens(steps).tolist() == [[1, 2]]
    assert many.of_tokens(steps).tolist() == [[1, 1, 1, 2, 2, 2]]
    both = replace(many, input_width=2, output_width=2, flow_tokens=True)
    assert both.of_tokens(steps).tolist() == [[1, 2, 1, 1, 1, 2, 2, 2]]


@pytest.mark.parametrize("preset", LAYOUTS)
@pytest.mark.parametrize("own", [{}, {"token_grain": "dimension"}, {"objective": "hybrid"}])
def test_every_step_may_have_a_time_of_its_own(preset: str, own: dict[str, str]) -> None:
    policy = make_policy(preset, **own)
    network = policy.network
    encoded = network.encode_prefix(observe(policy, 2))
    noisy = torch.randn(6, H, D, policy.objective.input_width, generator=seeded(1))
    time = torch.rand(6, generator=seeded(2))
    with torch.no_grad():
        one = network.denoise(encoded, noisy, time)
        same = network.denoise(encoded, noisy, time[:, None].expand(-1, H))
        torch.testing.assert_close(same, one, rtol=1e-5, atol=1e-5)
        given = torch.arange(H) < torch.tensor([0, 1, 2, 3, 1, 0])[:, None]
        own_time = network.denoise(encoded, noisy, times_of_steps(time, given))
        differ = (own_time - one).abs().flatten(1).amax(1) > 1e-3
        assert differ.tolist() == [False, True, True, True, True, False]


# Training


def test_of_most_chunks_nothing_is_given() -> None:
    torch.manual_seed(0)
    counts = draw_given(torch.ones(6000, 8, dtype=torch.bool), 3).sum(1)
    shares = counts.bincount(minlength=4) / len(counts)
    given = (1 - SHARE_WITHOUT) / 3
    assert shares.tolist() == pytest.approx([SHARE_WITHOUT, given, given, given], abs=0.02)
    assert SHARE_WITHOUT >= 0.5


def test_a_step_to_predict_is_left() -> None:
    valid = torch.arange(4) < torch.tensor([0, 1, 2, 4]).repeat(300)[:, None]
    given = draw_given(valid, 3)
    left = (valid & ~given).sum(1).view(-1, 4)
    assert (left[:, 1:] >= 1).all() and (left[:, 0] == 0).all()
    assert given.sum(1).view(-1, 4).amax(0).tolist() == [0, 0, 1, 3]


def losses(policy: Policy, seed: int = 3) -> tuple[Tensor, Tensor]:
    """The loss of two chunks, the second one with padding, and where random numbers are then."""
    torch.manual_seed(seed)
    valid = torch.tensor([[True] * H, [True] * (H - 1) + [False]])
    loss = policy.loss(observe(policy, 2), torch.randn(2, H, D, generator=seeded(5)), valid)
    return loss, torch.get_rng_state()


@every
def test_without_delays_training_is_what_it_was(
    own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is drawn that was not, and the objective is asked as it was."""
    policy = make_policy("tiny", **own)
    assert policy.settings.rtc_training_max_delay == 0
    monkeypatch.setattr(policy_module, "draw_given", lambda *_: pytest.fail("drew a delay"))
    expected, state = losses(policy)
    objective, asked = policy.objective, []

    class Watched:
        def loss(self, denoise: Any, *arguments: Any) -> Tensor:
            asked.append(arguments)

            def one_time(noisy: Tensor, time: Tensor) -> Tensor:
                assert time.ndim == 1
                return denoise(noisy, time)

            return objective.loss(one_time, *arguments[:4])  # as before there were given steps

    policy.objective = Watched()  # pyright: ignore[reportAttributeAccessIssue]
    again, same = losses(policy)
    assert again.equal(expected) and same.equal(state)
    assert asked[0][4] is None


@every
def test_nothing_given_is_the_loss_without(
    own: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = losses(make_policy("tiny", **own))
    policy = make_policy("tiny", rtc_training_max_delay=2, **own)
    monkeypatch.setattr(policy_module, "draw_given", lambda valid, _: torch.zeros_like(valid))
    torch.testing.assert_close(losses(policy)[0], plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - {"autoregressive"}))
def test_given_steps_are_seen_clean_and_not_learned(name: str) -> None:
    policy = make_policy("tiny", **OBJECTIVES[name])
    objective, width = policy.objective, policy.objective.input_width
    actions = policy.tokenizer.decode(torch.randint(0, 32, (2, H, D), generator=seeded(1)))
    given = torch.arange(H) < torch.tensor([2, 0, 1, 3])[:, None]  # two draws of two chunks
    seen: dict[str, Tensor] = {}

    def denoise(noisy: Tensor, time: Tensor) -> Tensor:
        seen["noisy"], seen["time"] = noisy, time
        shape = (*noisy.shape[:3], objective.output_width)
        seen["outputs"] = torch.randn(shape, generator=seeded(2)).requires_grad_()
        return seen["outputs"]

    def clean(actions: Tensor) -> Tensor:
        tokens = policy.tokenizer.encode(actions)
        values = policy.tokenizer.standardize(actions)[..., None]
        if width == 1:
            return values
        codes = torch.nn.functional.one_hot(tokens, width if name != "hybrid" else width - 1)
        return torch.cat((values, codes), -1) if name == "hybrid" else codes.float()

    torch.manual_seed(0)
    valid = torch.ones(2, H, dtype=torch.bool)
    objective.loss(denoise, actions, valid, 2, None, given).sum().backward()
    assert ((seen["time"] == 0) == given).all()
    expected = clean(actions).repeat_interleave(2, dim=0)
    assert seen["noisy"][given].equal(expected[given])
    assert not seen["noisy"][~given].equal(expected[~given])
    gradient = seen["outputs"].grad
    assert gradient is not None and not gradient[given].any()
    assert gradient[~given].any()


@pytest.mark.parametrize("objective", ["e0", "flow"])
def test_reflow_learns_no_given_steps(objective: str) -> None:
    policy = make_policy("tiny", objective=objective, rtc_training_max_delay=1)
    with pytest.raises(ValueError, match=r"reflow .* set rtc_training_max_delay to 0"):
        reflow_loss(policy, policy, observe(policy, 1), steps=1)


# Sampling


@every
@pytest.mark.parametrize("longest", [0, 2], ids=["painted in", "trained"])
def test_given_steps_come_out_as_they_are(own: dict[str, Any], longest: int) -> None:
    policy = make_policy("tiny", rtc_training_max_delay=longest, **own)
    observation, prefix = observe(policy, 2), given_steps(3, 1)
    chunk = policy.sample(observation, steps=3, generator=seeded(1), prefix=prefix)
    assert chunk.actions[prefix.mask].equal(prefix.actions[prefix.mask])
    assert chunk.actions.isfinite().all()
    if chunk.entropy is not None:
        assert not chunk.entropy[prefix.mask].any() and chunk.entropy[~prefix.mask].all()
    nothing = policy.sample(observation, steps=3, generator=seeded(1), prefix=given_steps(0, 0))
    plain = policy.sample(observation, steps=3, generator=seeded(1))
    torch.testing.assert_close(nothing.actions, plain.actions, rtol=1e-5, atol=1e-5)
    if longest or own.get("decoding") != "adaptive":  # which may have chosen the same sample
        assert not chunk.actions[~prefix.mask].equal(plain.actions[~prefix.mask])


@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - {"autoregressive"}))
def test_the_network_sees_given_steps_clean_at_every_evaluation(name: str) -> None:
    policy = make_policy("tiny", **OBJECTIVES[name])
    prefix = given_steps(2, 1).checked((2, H, D), torch.device("cpu"))
    seen: list[Tensor] = []

    def denoise(noisy: Tensor, time: Tensor, cache: Any = None) -> Tensor:
        draws = len(noisy) // 2
        assert ((time == 0) == prefix.repeat(draws).mask).all()
        seen.append(noisy[:: len(noisy) // 2][prefix.mask])
        return torch.randn(*noisy.shape[:3], policy.objective.output_width, generator=seeded(2))

    sampling = Sampling(3, seeded(1), prefix=prefix, own_time=True)
    policy.objective.sample(denoise, 2, H, sampling)
    assert len(seen) >= 2
    for later in seen[1:]:
        assert later.equal(seen[0])


def test_painting_in_follows_the_path_of_the_noise_and_says_nothing_at_first() -> None:
    """The reason why a single evaluation needs a policy that was trained for it."""
    policy = make_policy("tiny")
    observation = observe(policy, 2)
    prefix = given_steps(2, 1)
    once = [policy.sample(observation, steps=1, generator=seeded(1), prefix=p).actions
            for p in (prefix, None)]  # fmt: skip
    assert once[0][~prefix.mask].equal(once[1][~prefix.mask])
    noise = torch.randn(2, H, D, 1, generator=seeded(4))
    checked, seen = prefix.checked((2, H, D), torch.device("cpu")), []

    def denoise(noisy: Tensor, time: Tensor, cache: Any = None) -> Tensor:
        assert time.ndim == 1
        seen.append(noisy)
        return torch.zeros(*noisy.shape[:3], policy.objective.output_width)

    policy.objective.sample(denoise, 2, H, Sampling(4, noise=noise, prefix=checked))
    tokenizer = policy.tokenizer
    clean = tokenizer.standardize(tokenizer.decode(tokenizer.encode(checked.actions)))[..., None]
    for step, noisy in enumerate(seen):
        t = 1 - step / 4
        path = (1 - t) * clean + t * noise
        torch.testing.assert_close(noisy[prefix.mask], path[prefix.mask])
