"""Schedules, embeddings, corruption, loss, sampler and read-out, each against a slow reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from e0.diffusion import (
    SCHEDULES,
    Denoise,
    OneHotEmbedding,
    OrdinalEmbedding,
    Sample,
    corrupt,
    cross_entropy,
    sample,
    step_times,
)
from e0.posterior import posterior_entropy, read_out
from e0.tokens import ActionTokenizer, TokenizerNotFittedError

H, D, V = 3, 2, 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


@pytest.fixture
def tokenizer() -> ActionTokenizer:
    return ActionTokenizer(D, V).fit(normal(500, D) * torch.tensor([1.0, 20.0]) + 3, "kmeans")


@pytest.fixture(params=["ordinal", "one_hot", "scaled_one_hot"])
def embedding(request: pytest.FixtureRequest, tokenizer: ActionTokenizer):
    made = {
        "ordinal": OrdinalEmbedding(tokenizer),
        "one_hot": OneHotEmbedding(V),
        "scaled_one_hot": OneHotEmbedding(V, scale=3.0),
    }
    return made[request.param]


class LinearNetwork:
    """A denoiser with fixed random weights; each call's time is kept."""

    def __init__(self, width: int, sharpness: float = 1.0) -> None:
        self.weight = normal(H * D * width, H * D * V, seed=5) * sharpness
        self.times: list[Tensor] = []

    def __call__(self, noisy: Tensor, t: Tensor) -> Tensor:
        self.times.append(t)
        return (noisy.flatten(1) @ self.weight).view(-1, H, D, V) * (1.5 - t[:, None, None, None])


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_from_clean_to_noise(name: str) -> None:
    t = torch.linspace(0, 1, 101)
    alpha, sigma = SCHEDULES[name].alpha(t), SCHEDULES[name].sigma(t)
    ends = torch.stack([alpha[[0, -1]], sigma[[0, -1]]])
    torch.testing.assert_close(ends, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()
    if name == "cosine":
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(101))
    else:
        torch.testing.assert_close(alpha + sigma, torch.ones(101))


def test_embeddings_match_explicit_sums(embedding, tokenizer: ActionTokenizer) -> None:
    probabilities = normal(4, H, D, V).softmax(-1)
    every = torch.arange(V)[:, None].expand(V, D)
    table = embedding.embed(every)
    assert table.shape == (V, D, embedding.width)
    mean = torch.zeros(4, H, D, embedding.width)
    for v in range(V):
        mean += probabilities[..., v, None] * table[v]
    torch.testing.assert_close(embedding.mean(probabilities), mean)
    tokens = torch.randint(V, (4, H, D), generator=seeded())
    certain = torch.nn.functional.one_hot(tokens, V).float()
    torch.testing.assert_close(embedding.mean(certain), embedding.embed(tokens))


def test_one_hot_embedding_is_scaled_one_hot() -> None:
    assert OneHotEmbedding(3, scale=2.0).embed(torch.tensor([1])).tolist() == [[0, 2, 0]]


def test_ordinal_embedding_is_the_standardized_value() -> None:
    actions = normal(20_000, D) * torch.tensor([0.1, 9.0]) - 2
    tokenizer = ActionTokenizer(D, 256).fit(actions, "kmeans")
    embedded = OrdinalEmbedding(tokenizer).embed(tokenizer.encode(actions))
    torch.testing.assert_close(
        embedded[..., 0], (actions - actions.mean(0)) / actions.std(0), atol=0.15, rtol=0
    )
    torch.testing.assert_close(embedded.std(0)[:, 0], torch.ones(D), atol=1e-3, rtol=0)


def test_ordinal_embedding_follows_the_tokenizer(tokenizer: ActionTokenizer) -> None:
    later = ActionTokenizer(D, V)
    embedding = OrdinalEmbedding(later)
    tokens = torch.tensor([[0, 5]])
    with pytest.raises(TokenizerNotFittedError):
        embedding.embed(tokens)
    later.load_state_dict(tokenizer.state_dict())
    assert embedding.embed(tokens).equal(OrdinalEmbedding(tokenizer).embed(tokens))
    later.fit(normal(50, D, seed=3))
    assert not embedding.embed(tokens).equal(OrdinalEmbedding(tokenizer).embed(tokens))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("level", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_corruption_has_the_mean_and_deviation_of_the_schedule(name: str, level: float) -> None:
    """Over 40 000 draws the mean is known to 4 deviations, 0.02 σ, and the deviation to 1.5 %."""
    clean = torch.tensor([-2.0, 0.0, 0.7]).expand(40_000, 1, 1, 3)
    t = torch.full((40_000,), level)
    result = corrupt(clean, t, SCHEDULES[name], generator=seeded())
    expected = {
        "linear": (1 - level, level),
        "cosine": (math.cos(math.pi * level / 2), math.sin(math.pi * level / 2)),
    }
    alpha, sigma = expected[name]
    mean, deviation = result.noisy.mean((0, 1, 2)), result.noisy.std((0, 1, 2))
    assert (mean - alpha * clean[0, 0, 0]).abs().max() <= 0.02 * sigma + 1e-6
    assert (deviation - sigma).abs().max() <= 0.015 * sigma + 1e-6
    assert result.alpha.shape == result.sigma.shape == (40_000, 1, 1, 1)
    torch.testing.assert_close(result.noisy, result.alpha * clean + result.sigma * result.noise)


def test_corruption_uses_each_chunk_its_own_time_and_noise() -> None:
    clean, noise = normal(3, H, D, 2), normal(3, H, D, 2, seed=1)
    t = torch.tensor([0.0, 0.25, 1.0])
    noisy = corrupt(clean, t, SCHEDULES["linear"], noise=noise).noisy
    torch.testing.assert_close(noisy[0], clean[0])
    torch.testing.assert_close(noisy[1], 0.75 * clean[1] + 0.25 * noise[1])
    torch.testing.assert_close(noisy[2], noise[2])


def test_corruption_refuses_bad_arguments() -> None:
    clean, schedule = normal(2, H, D, 1), SCHEDULES["linear"]
    for t in ([0.5, 1.1], [-0.1, 0.5], [0.5, math.nan]):
        with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
            corrupt(clean, torch.tensor(t), schedule)
    with pytest.raises(ValueError, match=r"t must have shape \(2,\)"):
        corrupt(clean, torch.zeros(3), schedule)
    with pytest.raises(ValueError, match="noise must have the shape"):
        corrupt(clean, torch.zeros(2), schedule, noise=normal(2, H, D, 2))


def test_cross_entropy_is_the_mean_over_valid_steps() -> None:
    logits = normal(3, H, D, V)
    tokens = torch.randint(V, (3, H, D), generator=seeded())
    valid = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    expected = []
    for b in range(3):
        terms = [
            -logits[b, h, d].log_softmax(-1)[tokens[b, h, d]]
            for h in range(H)
            for d in range(D)
            if valid[b, h]
        ]
        expected.append(torch.stack(terms).mean() if terms else torch.tensor(0.0))
    torch.testing.assert_close(cross_entropy(logits, tokens, valid), torch.stack(expected))


def test_cross_entropy_ignores_what_is_not_valid() -> None:
    logits = normal(2, H, D, V).requires_grad_()
    tokens = torch.zeros(2, H, D, dtype=torch.int64)
    valid = torch.tensor([[True, False, False], [False, False, False]])
    loss = cross_entropy(logits, tokens, valid)
    loss.sum().backward()
    assert loss[1] == 0
    assert logits.grad is not None
    assert (logits.grad.abs().sum((-1, -2)) > 0).equal(valid)
    with torch.no_grad():
        spoiled = logits.clone()
        spoiled[0, 1:] = torch.nan
        assert cross_entropy(spoiled, tokens, valid)[0] == loss[0]


def test_cross_entropy_refuses_other_shapes() -> None:
    tokens = torch.zeros(2, H, D, dtype=torch.int64)
    valid = torch.ones(2, H, dtype=torch.bool)
    with pytest.raises(ValueError, match="expected logits"):
        cross_entropy(normal(2, H, V), tokens, valid)
    with pytest.raises(ValueError, match="expected logits"):
        cross_entropy(normal(2, H, D, V), tokens, valid[:, :1])


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_matches_a_slow_reference(embedding, name: str) -> None:
    """x_t' = α' x̂ + σ' (x_t - α x̂) / σ, written with scalars and explicit sums."""
    steps, initial = 5, normal(4, H, D, embedding.width)
    network = LinearNetwork(embedding.width)
    result = sample(
        network,
        embedding,
        (4, H, D),
        schedule=SCHEDULES[name],
        steps=steps,
        initial_noise=initial,
        keep_trace=True,
    )
    table = embedding.embed(torch.arange(V)[:, None].expand(V, D)).double()
    reference = LinearNetwork(embedding.width)
    assert result.steps_taken == steps
    assert result.trace is not None
    x = initial.double()
    for i in range(steps):
        t = 1 - i / steps
        logits = reference(x.float(), torch.full((4,), t))
        torch.testing.assert_close(result.trace[i], logits, atol=2e-4, rtol=2e-4)
        p = logits.double().softmax(-1)
        clean = sum(p[..., v, None] * table[v] for v in range(V))
        after = 1 - (i + 1) / steps
        if name == "linear":
            alpha, sigma, next_alpha, next_sigma = 1 - t, t, 1 - after, after
        else:
            alpha, sigma = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
            next_alpha, next_sigma = math.cos(math.pi * after / 2), math.sin(math.pi * after / 2)
        x = next_alpha * clean + next_sigma * (x - alpha * clean) / sigma
    torch.testing.assert_close(torch.stack(network.times), torch.stack(reference.times))
    torch.testing.assert_close(result.entropy, posterior_entropy(result.logits))
    assert result.trace[-1] is result.logits


@pytest.mark.parametrize("name", SCHEDULES)
def test_ancestral_step_has_the_moments_of_the_conditional(name: str) -> None:
    """With certain tokens, x_t' given x_t and the tokens is the Gaussian of Ho et al., eq. 7."""
    embedding = OneHotEmbedding(2)
    seen: list[Tensor] = []

    def certain(noisy: Tensor, t: Tensor) -> Tensor:
        seen.append(noisy)
        return torch.tensor([0.0, -torch.inf]).expand(*noisy.shape[:3], 2)

    count, steps = 40_000, 4
    schedule = SCHEDULES[name]
    sample(
        certain,
        embedding,
        (count, 1, 1),
        schedule=schedule,
        steps=steps,
        sampler="ancestral",
        generator=seeded(),
    )
    clean = torch.tensor([1.0, 0.0])
    for i in range(1, steps - 1):
        t, after = torch.tensor(1 - i / steps), torch.tensor(1 - (i + 1) / steps)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        next_alpha, next_sigma = schedule.alpha(after), schedule.sigma(after)
        ratio = alpha / next_alpha
        variance = sigma**2 - ratio**2 * next_sigma**2
        mean = ratio * next_sigma**2 / sigma**2 * seen[i] + next_alpha * variance / sigma**2 * clean
        residual = (seen[i + 1] - mean).flatten()
        deviation = (variance * next_sigma**2 / sigma**2).sqrt()
        assert residual.mean().abs() < 0.02 * deviation
        torch.testing.assert_close(residual.std(), deviation, rtol=0.015, atol=0)
        assert torch.corrcoef(torch.stack([residual, seen[i].flatten()]))[0, 1].abs() < 0.02


def test_ancestral_draws_tokens_from_the_posterior() -> None:
    """The first step from t = 1 forgets the noise, so x_t' shows the drawn tokens."""
    embedding, logits = OneHotEmbedding(3), torch.tensor([0.6, 0.3, 0.1]).log()
    seen: list[Tensor] = []

    def fixed(noisy: Tensor, t: Tensor) -> Tensor:
        seen.append(noisy)
        return logits.expand(*noisy.shape[:3], 3)

    sample(
        fixed,
        embedding,
        (20_000, 1, 1),
        schedule=SCHEDULES["linear"],
        steps=2,
        sampler="ancestral",
        generator=seeded(),
    )
    mean, deviation = seen[1].mean((0, 1, 2)) / 0.5, seen[1].std((0, 1, 2))
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    assert (mean - probabilities).abs().max() < 0.02
    variance = 0.25 * probabilities * (1 - probabilities) + 0.25
    torch.testing.assert_close(deviation, variance.sqrt(), rtol=0.02, atol=0)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_sampling_is_deterministic_under_a_generator(embedding, sampler: str) -> None:
    def draw(seed: int) -> Sample:
        network = LinearNetwork(embedding.width)
        with torch.inference_mode():
            return sample(
                network,
                embedding,
                (2, H, D),
                schedule=SCHEDULES["cosine"],
                sampler=sampler,
                generator=seeded(seed),
            )

    torch.manual_seed(1)
    first = draw(7)
    torch.manual_seed(2)
    assert first.logits.equal(draw(7).logits)
    assert not first.logits.equal(draw(8).logits)
    assert first.trace is None


def test_early_stop_ends_when_no_token_changes(tokenizer: ActionTokenizer) -> None:
    answers = torch.randint(V, (6, 2, H, D), generator=seeded())
    answers[3:] = answers[2]
    calls = 0

    def scripted(noisy: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.nn.functional.one_hot(answers[calls - 1], V).float()

    def draw(early_stop: bool) -> Sample:
        return sample(
            scripted,
            OrdinalEmbedding(tokenizer),
            (2, H, D),
            schedule=SCHEDULES["linear"],
            steps=6,
            early_stop=early_stop,
        )

    assert draw(early_stop=True).steps_taken == calls == 4
    calls = 0
    assert draw(early_stop=False).steps_taken == calls == 6


def test_sample_refuses_bad_arguments(tokenizer: ActionTokenizer) -> None:
    embedding, network = OrdinalEmbedding(tokenizer), LinearNetwork(1)

    def draw(denoise: Denoise = network, **changes) -> Sample:
        return sample(denoise, embedding, (2, H, D), schedule=SCHEDULES["linear"], **changes)

    with pytest.raises(ValueError, match="steps must be at least 1"):
        draw(steps=0)
    with pytest.raises(ValueError, match="unknown sampler 'euler'"):
        draw(sampler="euler")
    with pytest.raises(ValueError, match=r"initial_noise must have shape \(2, 3, 2, 1\)"):
        draw(initial_noise=normal(2, H, D, V))
    with pytest.raises(ValueError, match="denoise must return"):
        draw(denoise=lambda noisy, t: normal(2, H, V))


def test_entropy_has_its_limits() -> None:
    assert posterior_entropy(torch.zeros(2, 3, 4, 50)).allclose(torch.tensor(math.log(50)))
    certain = torch.full((5, 8), -torch.inf)
    certain[:, 2] = 0
    assert posterior_entropy(certain).tolist() == [0] * 5
    p = torch.tensor([0.5, 0.25, 0.25])
    assert posterior_entropy(p.log()).item() == pytest.approx(1.5 * math.log(2))


def test_read_out_takes_the_most_likely_code(tokenizer: ActionTokenizer) -> None:
    logits = normal(4, H, D, V)
    expected = tokenizer.decode(logits.argmax(-1))
    assert read_out(logits, tokenizer.codebook).equal(expected)


def test_window_mean_stays_on_one_mode() -> None:
    """Two modes at ∓0.5; the mean of everything, near 0, is an action nobody took."""
    codes = torch.linspace(-1, 1, 201)[None]

    def mode(at: float, weight: float) -> Tensor:
        return weight * torch.exp(-((codes - at) ** 2) / (2 * 0.01**2))

    logits = (mode(-0.5, 0.45) + mode(0.5032, 0.55) + 1e-12).log().view(1, 1, 1, 201)
    mean = read_out(logits, codes, "window_mean", window=0.0205).item()
    assert mean == pytest.approx(0.5032, abs=5e-4)
    assert read_out(logits, codes).item() == pytest.approx(0.5)
    assert read_out(logits, codes, "window_mean", window=0.0).item() == pytest.approx(0.5)
    near = ((codes - 0.5).abs() <= 0.041)[0]
    p = logits[0, 0, 0].softmax(-1)[near]
    assert mean == pytest.approx(((p * codes[0, near]).sum() / p.sum()).item(), abs=1e-6)


def test_read_out_of_padded_codes_gives_a_level() -> None:
    levels = torch.tensor([[0.0, 0.5], [1.0, 0.5], [1.0, 0.5]])
    codebook = ActionTokenizer(2, 16).fit(levels).codebook
    for kind in ("argmax", "median", "window_mean"):
        actions = read_out(normal(50, H, 2, 16), codebook, kind)
        assert set(actions[..., 0].unique().tolist()) == {0.0, 1.0}
        assert actions[..., 1].unique().tolist() == [0.5]


def test_mean_and_median_have_the_smallest_errors(tokenizer: ActionTokenizer) -> None:
    codebook, logits = tokenizer.codebook, 3 * normal(20, H, D, V)
    p = logits.softmax(-1)

    def expected(power: int, actions: Tensor) -> Tensor:
        return (p * (actions[..., None] - codebook).abs() ** power).sum(-1)

    for power, kind in ((1, "median"), (2, "mean")):
        best = expected(power, read_out(logits, codebook, kind))
        for code in range(V):
            other = codebook[:, code].expand_as(best)
            assert (best <= expected(power, other) + 1e-5).all(), (kind, code)


def test_of_two_ways_the_median_takes_one_and_the_mean_none() -> None:
    codes = torch.linspace(-1, 1, 21)[None]
    logits = torch.full((1, 1, 1, 21), -torch.inf)
    logits[..., [2, 18]] = torch.tensor([0.6, 0.4]).log()
    assert read_out(logits, codes, "median").item() == pytest.approx(-0.8)
    assert read_out(logits, codes, "mean").item() == pytest.approx(-0.16)


def test_read_out_refuses_bad_arguments(tokenizer: ActionTokenizer) -> None:
    logits = normal(1, H, D, V)
    with pytest.raises(ValueError, match="unknown read-out 'mode'"):
        read_out(logits, tokenizer.codebook, "mode")
    with pytest.raises(ValueError, match="window must not be negative"):
        read_out(logits, tokenizer.codebook, "window_mean", window=-0.1)
    with pytest.raises(ValueError, match="must end in the codebook's shape"):
        read_out(logits[..., :-1], tokenizer.codebook)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_sampling_compiles_to_one_graph(embedding, sampler: str) -> None:
    """A full graph has no place where the host would read a tensor."""
    weight = normal(H * D * embedding.width, H * D * V, seed=5)

    def draw(initial: Tensor) -> Tensor:
        result = sample(
            lambda noisy, t: (noisy.flatten(1) @ weight).view(-1, H, D, V) - t[:, None, None, None],
            embedding,
            (2, H, D),
            schedule=SCHEDULES["cosine"],
            sampler=sampler,
            initial_noise=initial,
        )
        return result.logits

    initial = normal(2, H, D, embedding.width)
    embedding.embed(torch.zeros(1, D, dtype=torch.int64))
    compiled = torch.compile(draw, backend="eager", fullgraph=True)(initial)
    if sampler == "ddim":
        torch.testing.assert_close(compiled, draw(initial))
    assert compiled.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_sampling_never_waits_for_the_device(sampler: str, tokenizer: ActionTokenizer) -> None:
    embedding = OrdinalEmbedding(tokenizer.to("cuda"))
    tokenizer.require_fitted()
    logits = normal(2, H, D, V).to("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = sample(
            lambda noisy, t: logits + noisy,
            embedding,
            (2, H, D),
            schedule=SCHEDULES["cosine"],
            sampler=sampler,
            device="cuda",
        )
        actions = read_out(result.logits, tokenizer.codebook, "window_mean")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert actions.isfinite().all()


def test_the_grids_of_times_begin_at_noise_and_end_where_they_say() -> None:
    assert step_times(4).tolist() == [1.0, 0.75, 0.5, 0.25]
    assert step_times(1, "dense_jump").tolist() == [1.0]
    assert step_times(3, "dense_jump").tolist() == [1.0, 0.625, 0.25]
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        step_times(0)


def test_cooling_ends_with_the_likeliest_codes(tokenizer: ActionTokenizer) -> None:
    """Of three evaluations the second step is taken at half the temperature."""
    logits = torch.randn(2, H, D, V, generator=seeded(3))
    seen: list[Tensor] = []

    def denoise(noisy: Tensor, time: Tensor) -> Tensor:
        seen.append(noisy)
        return logits

    embedding = OrdinalEmbedding(tokenizer)
    start = torch.zeros(2, H, D, 1)
    sample(
        denoise, embedding, (2, H, D), schedule=SCHEDULES["linear"], steps=3, cooling=True,
        temperature=2.0, initial_noise=start,
    )  # fmt: skip
    first = embedding.mean((logits / 2.0).softmax(-1))
    second = embedding.mean(logits.softmax(-1))
    torch.testing.assert_close(seen[1], first / 3)
    torch.testing.assert_close(seen[2], seen[1] / 2 + (2 / 3 - 1 / 6) * second)
