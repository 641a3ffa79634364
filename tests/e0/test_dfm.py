"""Discrete flow matching: its path, its jumps, and what it samples where the truth is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from e0.heads import TokenHead
from e0.objectives import DFMObjective, Sampling
from e0.objectives.dfm import MetricPath, _draw_index
from e0.tokens import ActionTokenizer

V = 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_objective(dimensions: int = 2, **own: object) -> DFMObjective:
    """Of V codes a dimension, with the network's outputs as logits."""
    tokenizer = ActionTokenizer(dimensions, V)
    tokenizer.fit(torch.linspace(-1, 1, 5000)[:, None].expand(-1, dimensions), "uniform")
    return DFMObjective(TokenHead(tokenizer, ready=lambda outputs: outputs), **own)  # pyright: ignore


def all_tokens(path: MetricPath) -> Tensor:
    """(V, 1, D): every code in every dimension."""
    size = path.values.shape[1]
    return torch.arange(size)[:, None, None].expand(-1, 1, len(path.values))


def at(time: float, rows: int) -> Tensor:
    return torch.full((rows,), time)


# The path


def test_the_path_leads_from_all_codes_alike_to_the_clean_one() -> None:
    path = make_objective().path()
    clean = all_tokens(path)
    start = path.log_probabilities(clean, at(1.0, V)).exp()
    torch.testing.assert_close(start, torch.full((V, 1, 2, V), 1 / V))
    almost = path.log_probabilities(clean, at(0.999, V)).exp()
    torch.testing.assert_close(almost, start, rtol=0, atol=1e-4)
    end = path.log_probabilities(clean, at(0.001, V)).exp()
    assert (end.gather(-1, clean[..., None]) > 0.9999).all()


@pytest.mark.parametrize("time", [0.2, 0.5, 0.7])
def test_nearer_codes_are_likelier_and_the_deviation_is_that_of_e0s_noise(time: float) -> None:
    tokenizer = ActionTokenizer(1, 1024).fit(torch.randn(9999, 1, generator=seeded()), "uniform")
    path = DFMObjective(TokenHead(tokenizer)).path()
    middle = torch.tensor([[[512]]])
    probabilities = path.log_probabilities(middle, at(time, 1)).exp()[0, 0, 0]
    distance = (path.values[0] - path.values[0, 512]).abs()
    assert (probabilities[distance.argsort()].diff() <= 1e-9).all()
    if time < 0.4:  # further on, the ends of the codebook cut it off
        deviation = (probabilities * distance.square()).sum().sqrt()
        assert deviation.item() == pytest.approx(time / (1 - time), rel=0.01)


def test_a_dimension_with_few_codes_never_leaves_them() -> None:
    actions = torch.stack((torch.rand(500), (torch.rand(500) > 0.5).float()), dim=-1)
    tokenizer = ActionTokenizer(2, V).fit(actions)
    path = DFMObjective(TokenHead(tokenizer)).path()
    gripper = path.log_probabilities(torch.ones(1, 1, 2, dtype=torch.long), at(1.0, 1)).exp()[
        ..., 1, :
    ]
    assert torch.equal(gripper[0, 0], torch.tensor([0.5, 0.5] + [0.0] * (V - 2)))


# Jumps


@pytest.mark.parametrize(
    ("time", "later"), [(1.0, 0.5), (0.9, 0.1), (0.5, 0.45), (0.2, 0.01), (0.01, 0.005)]
)
def test_a_jump_of_any_length_leads_along_the_path(time: float, later: float) -> None:
    path = make_objective(1).path()
    for code in (0, 5, V - 1):
        clean = torch.full((V, 1, 1), code)
        now, then = at(time, V), at(later, V)
        jump = path.transition(all_tokens(path), clean, now, then)[:, 0, 0]
        torch.testing.assert_close(jump.sum(-1), torch.ones(V))
        before, after = (path.log_probabilities(clean, t)[0, 0, 0].exp() for t in (now, then))
        torch.testing.assert_close(before @ jump, after, rtol=1e-4, atol=1e-6)
        distance = (path.values[0] - path.values[0, code]).abs()
        outward = distance[None, :] > distance[:, None] + 1e-6
        assert not jump[outward].any()


def test_small_jumps_have_the_rates_of_the_kinetic_optimal_velocity() -> None:
    """u(z -> x) = p(x) β' max(0, d(z, clean) - d(x, clean)), by s = 1 - t."""
    path, s, step = make_objective(1).path(), 0.4, 1e-4
    path = MetricPath(path.values.double(), path.bias.double())
    clean = torch.full((V, 1, 1), 5)
    now, then = (at(1 - x, V).double() for x in (s, s + step))
    jump = path.transition(all_tokens(path), clean, now, then)[:, 0, 0]
    p = path.log_probabilities(clean, (now + then) / 2)[0, 0, 0].exp()
    distance = (path.values[0] - path.values[0, 5]).square()
    slope = (s + step / 2) / (1 - s - step / 2) ** 3
    expected = step * slope * p * (distance[:, None] - distance).clamp_min(0)
    moves = ~torch.eye(V, dtype=torch.bool)
    torch.testing.assert_close(jump[moves], expected[moves], rtol=1e-3, atol=1e-10)


def test_indices_are_drawn_in_proportion_to_their_weights() -> None:
    weights = torch.tensor([[0.0, 3.0, 0.0, 1.0, 0.0], [2.0, 0.0, 2.0, 4.0, 0.0]])
    drawn = _draw_index(weights.expand(20_000, 2, 5), seeded())
    for row, own in zip(drawn.T, weights, strict=True):
        found = row.bincount(minlength=5) / len(row)
        torch.testing.assert_close(found, own / own.sum(), rtol=0, atol=0.015)
        assert not found[own == 0].any()


# Sampling from a known distribution


TWO_MODES = (
    torch.tensor([[[2]], [[3]], [[4]], [[11]], [[12]]]),
    torch.tensor([0.1, 0.35, 0.2, 0.25, 0.1]),
)
TWO_WAYS = torch.tensor([[[0, 12]], [[12, 0]], [[7, 7]]]), torch.tensor([0.5, 0.3, 0.2])


def exact_denoiser(objective: DFMObjective, chunks: Tensor, weights: Tensor):
    """Bayes' rule over a list of chunks (M, 1, D): p(chunk | tokens) = w Π p_t(token | clean)."""
    path = objective.path()
    members = torch.nn.functional.one_hot(chunks, V).float()

    def denoise(noisy: Tensor, time: Tensor, cache: object = None) -> Tensor:
        tokens = (noisy - path.values).abs().argmin(-1)
        each = path.log_probabilities(chunks, time[:1].expand(len(chunks)))
        likelihood = torch.einsum(
            "bhdv,mhdv->bm", torch.nn.functional.one_hot(tokens, V).float(), each.clamp_min(-1e4)
        )
        posterior = (weights.log() + likelihood).softmax(-1)
        return torch.einsum("bm,mhdv->bhdv", posterior, members).log()

    return denoise


def total_variation(chunks: Tensor, weights: Tensor, steps: int, count: int = 2500) -> float:
    """Between the listed chunks' weights and their frequencies; unlisted chunks count as error."""
    objective = make_objective(chunks.shape[-1])
    denoise = exact_denoiser(objective, chunks, weights)
    drawn = objective.sample(denoise, count, 1, Sampling(steps, seeded(steps)))
    tokens = objective.head.tokenizer.encode(drawn.actions)
    found = (tokens[:, None] == chunks).flatten(2).all(-1).double().mean(0)
    return 0.5 * ((found - weights).abs().sum() + 1 - found.sum()).item()


@pytest.mark.parametrize(("chunks", "weights"), [TWO_MODES, TWO_WAYS], ids=["modes", "ways"])
def test_many_steps_reproduce_a_known_distribution_and_few_do_not(
    chunks: Tensor, weights: Tensor
) -> None:
    one, three, many = (total_variation(chunks, weights, steps) for steps in (1, 3, 50))
    assert many < 0.04
    assert one > three > many + 0.02


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_jumps_lead_to_drawn_codes_or_at_temperature_zero_to_the_likeliest(
    temperature: float,
) -> None:
    objective = make_objective(1, temperature=temperature)
    seen: list[Tensor] = []

    def denoise(noisy: Tensor, time: Tensor, cache: object = None) -> Tensor:
        """Nearly as often code 12 as code 3, whatever the tokens are."""
        seen.append((noisy - objective.path().values).abs().argmin(-1))
        logits = torch.full((*noisy.shape[:3], V), -torch.inf)
        logits[..., 3], logits[..., 12] = 0.1, 0.0
        return logits

    objective.sample(denoise, 500, 1, Sampling(40, seeded()))
    start, end = seen[0].flatten(), seen[-1].flatten()
    assert start.bincount(minlength=V).min() > 10
    near = ((end - 3).abs() <= 1).double().mean().item(), ((end - 12).abs() <= 1).double().mean()
    assert near[0] > 0.99 if temperature == 0 else min(near) > 0.2


def test_read_outs_are_those_of_e0() -> None:
    for kind, code in (("argmax", 3), ("median", 4)):
        objective = make_objective(1, read_out=kind)
        chunk = objective.sample(
            exact_denoiser(objective, *TWO_MODES), 5, 1, Sampling(1, seeded(), keep_trace=True)
        )
        codebook = objective.head.tokenizer.codebook
        assert torch.equal(chunk.actions, codebook[0, code].expand(5, 1, 1))
        assert chunk.trace is not None and len(chunk.trace) == chunk.steps_taken == 1


def test_sampling_asks_for_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it would have to wait for it."""
    objective = make_objective()
    objective.head.tokenizer.require_fitted()
    logits = torch.randn(2, 3, 2, V, generator=seeded())

    def refuse(*_: object) -> None:
        raise AssertionError("a number was asked for")

    with monkeypatch.context() as patch:
        for way in ("item", "tolist", "nonzero", "__bool__", "__int__", "__float__", "__index__"):
            patch.setattr(Tensor, way, refuse)
        objective.sample(
            lambda noisy, time, cache=None: logits + noisy, 2, 3, Sampling(3, seeded())
        )


@pytest.mark.gpu
def test_sampling_never_waits_for_the_device() -> None:
    objective = make_objective()
    objective.head.tokenizer.to("cuda").require_fitted()
    logits = torch.randn(2, 3, 2, V, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        chunk = objective.sample(lambda noisy, time, cache=None: logits + noisy, 2, 3, Sampling(3))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert chunk.actions.isfinite().all()


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"temperature": -1.0}, "temperature must not be negative"),
        ({"read_out": "mode"}, "unknown read-out 'mode'"),
        ({"time_distribution": "gamma"}, "unknown time distribution 'gamma'"),
    ],
)
def test_impossible_settings_are_refused(own: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_objective(**own)  # pyright: ignore[reportArgumentType]
