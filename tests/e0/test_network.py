"""The network against slow references: attention, prefix and suffix, instructions, gradients."""

from __future__ import annotations

import copy
import functools
import math
import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from e0.averaging import with_weights
from e0.network.action_tokens import TokenLayout
from e0.network.language import PADDING, ByteEmbedding, encode_instructions
from e0.network.policy_network import Observation, PolicyNetwork, module_names
from e0.network.presets import PRESETS, ByteShape, Preset, find_preset
from e0.network.transformer import (
    AdaptiveRMSNorm,
    Attention,
    Block,
    BlockShape,
    KeyValue,
    RMSNorm,
    grouped,
    rotate,
    rotation,
)

H, D, M, V = 3, 2, 2, 5  # steps, action dimensions, input width, output width
SHAPE = BlockShape(width=24, hidden=40, heads=4, key_value_heads=2, head_width=6)
SMALL = replace(
    find_preset("tiny"),
    prefix=SHAPE,
    suffix=SHAPE,
    depth=2,
    image_size=(32, 32),
    language=ByteShape(patch=4),
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def shake(module: torch.nn.Module, seed: int = 3) -> None:
    """Move every weight, so that nothing starts at zero and hides a mistake."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def make_network(
    cameras: tuple[str, ...] = ("front", "wrist"),
    vectors: dict[str, int] | None = None,
    use_instruction: bool = True,
    preset: Preset = SMALL,
    shaken: bool = True,
) -> PolicyNetwork:
    torch.manual_seed(0)
    network = PolicyNetwork(
        preset,
        TokenLayout(horizon=H, action_dim=D, input_width=M, output_width=V),
        cameras=cameras,
        vectors={"observation.state": 4, "observation.force": 3} if vectors is None else vectors,
        use_instruction=use_instruction,
    )
    if shaken:
        shake(network)
    return network


def observe(network: PolicyNetwork, batch: int = 2, texts: list[str] | None = None) -> Observation:
    images = {
        name: torch.rand(batch, 3, 24 + 8 * i, 40, generator=seeded(i))
        for i, name in enumerate(network.cameras)
    }
    vectors = {
        name: normal(batch, size, seed=size) for name, size in sorted(network.vectors.items())
    }
    instruction = None
    if network.language is not None:
        texts = texts or [f"task {index}" for index in range(batch)]
        instruction = encode_instructions(texts, 64, network.preset.language.patch)
    return Observation(images, vectors, instruction)


def row(observation: Observation, index: int) -> Observation:
    """One observation of a batch, as a batch of one."""
    some = slice(index, index + 1)
    return Observation(
        {name: image[some] for name, image in observation.images.items()},
        {name: vector[some] for name, vector in observation.vectors.items()},
        None if observation.instruction is None else observation.instruction[some],
    )


# Attention and its parts


def test_rotary_positions_turn_each_pair_by_its_own_angle() -> None:
    x, positions, base = normal(1, 1, 3, 6), torch.tensor([[0, 2, 7]]), 10_000.0
    rotated = rotate(x, rotation(positions, 6, base))
    for token, position in enumerate([0, 2, 7]):
        for pair in range(3):
            angle = position * base ** (-2 * pair / 6)
            first, second = x[0, 0, token, pair].item(), x[0, 0, token, pair + 3].item()
            assert rotated[0, 0, token, pair].item() == pytest.approx(
                first * math.cos(angle) - second * math.sin(angle), abs=1e-5
            )
            assert rotated[0, 0, token, pair + 3].item() == pytest.approx(
                second * math.cos(angle) + first * math.sin(angle), abs=1e-5
            )


def test_rotary_attention_depends_on_distance_alone() -> None:
    query, key = normal(1, 1, 1, 6, seed=1), normal(1, 1, 1, 6, seed=2)

    def score(query_at: int, key_at: int) -> float:
        turned = [
            rotate(x, rotation(torch.tensor([[at]]), 6))
            for x, at in ((query, query_at), (key, key_at))
        ]
        return (turned[0] * turned[1]).sum().item()

    assert score(5, 2) == pytest.approx(score(43, 40), abs=1e-4)
    assert abs(score(5, 2) - score(2, 5)) > 1e-3


def reference_attention(
    attention: Attention, x: Tensor, positions: Tensor, context: KeyValue | None, mask: Tensor
) -> Tensor:
    """softmax(QKᵀ / sqrt(E)) V, head by head and token by token."""
    shape = attention.shape
    heads, groups, width = shape.heads, shape.key_value_heads, shape.head_width
    table = rotation(positions, width)
    batch, tokens, _ = x.shape
    query = rotate(attention.query(x).view(batch, tokens, heads, width).transpose(1, 2), table)
    projected = attention.key_value.projection(x)
    keys = projected[..., : groups * width].view(batch, tokens, groups, width).transpose(1, 2)
    values = projected[..., groups * width :].view(batch, tokens, groups, width).transpose(1, 2)
    keys = rotate(keys, table)
    if context is not None:
        keys = torch.cat((context.keys, keys), dim=2)
        values = torch.cat((context.values, values), dim=2)
    out = torch.zeros(batch, tokens, heads, width)
    for b in range(batch):
        for head in range(heads):
            group = head // (heads // groups)  # neighbouring heads share keys and values
            for t in range(tokens):
                seen = mask[b, t].nonzero()[:, 0]
                scores = keys[b, group, seen] @ query[b, head, t] / math.sqrt(width)
                out[b, t, head] = scores.softmax(0) @ values[b, group, seen]
    return attention.output(out.flatten(2))


@pytest.mark.parametrize("with_context", [False, True])
def test_grouped_attention_equals_the_explicit_sum(with_context: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(SHAPE)
    x, positions = normal(2, 5, 24), torch.arange(5)[None].expand(2, -1) + 3
    context = KeyValue(normal(2, 2, 4, 6, seed=1), normal(2, 2, 4, 6, seed=2))
    mask = torch.rand(2, 5, 9 if with_context else 5, generator=seeded(4)) < 0.7
    mask[..., -1] = True  # every token sees something
    given = context if with_context else None
    allowed = grouped(mask[:, None], SHAPE)
    fast, seen = attention(x, rotation(positions, 6), given, allowed)
    slow = reference_attention(attention, x, positions, given, mask)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-4)
    assert seen.keys.shape == seen.values.shape == (2, 2, mask.shape[-1], 6)


def test_rms_norm_is_x_over_its_root_mean_square() -> None:
    norm, x = RMSNorm(8), 10 * normal(3, 8)
    shake(norm)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + norm.weight)
    torch.testing.assert_close(norm(x), expected)


def test_an_adaptive_norm_starts_as_a_plain_one() -> None:
    norm, x = AdaptiveRMSNorm(8, 5), normal(2, 3, 8)
    normed, gate = norm(x, normal(2, 1, 5))
    torch.testing.assert_close(normed, RMSNorm(8)(x))
    torch.testing.assert_close(gate, torch.ones(2, 1, 8))


def test_a_conditioned_block_starts_as_a_plain_block() -> None:
    torch.manual_seed(0)
    conditioned, plain = Block(SHAPE, 5), Block(SHAPE)
    plain.load_state_dict(conditioned.state_dict(), strict=False)
    x, table = normal(2, 4, 24), rotation(torch.arange(4)[None], 6)
    expected, _ = plain(x, table, None)
    out, _ = conditioned(x, table, None, condition=normal(2, 1, 5, seed=7))
    torch.testing.assert_close(out, expected)
    shake(conditioned)
    moved = [conditioned(x, table, None, None, normal(2, 1, 5, seed=s))[0] for s in (7, 8)]
    assert (moved[0] - moved[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [({"key_value_heads": 3}, "multiple of key_value_heads"), ({"head_width": 5}, "even")],
)
def test_impossible_block_shapes_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SHAPE, **change)


def test_presets_are_checked() -> None:
    with pytest.raises(ValueError, match="head_width must be equal"):
        replace(SMALL, suffix=replace(SHAPE, head_width=8))
    with pytest.raises(ValueError, match=r"unknown network preset 'huge'; known: .*tiny"):
        find_preset("huge")
    assert {"tiny", "small"} <= set(PRESETS)


# Prefix and suffix


def test_draws_in_one_sequence_equal_separate_calls() -> None:
    network, draws = make_network(), 3
    prefix = network.encode_prefix(observe(network, texts=["go", "a rather longer task"]))
    noisy, time = normal(2 * draws, H, D, M), torch.rand(2 * draws, generator=seeded(9))
    together = network.denoise(prefix, noisy, time).view(2, draws, H, D, V)
    for draw in range(draws):
        alone = network.denoise(
            prefix, noisy.view(2, draws, H, D, M)[:, draw], time.view(2, draws)[:, draw]
        )
        torch.testing.assert_close(together[:, draw], alone, atol=1e-5, rtol=1e-4)
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-3


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    network = make_network()
    observation = observe(network, batch=3)
    noisy, time = normal(3, H, D, M), torch.tensor([0.1, 0.5, 0.9])
    together = network.denoise(network.encode_prefix(observation), noisy, time)
    for index in range(3):
        prefix = network.encode_prefix(row(observation, index))
        alone = network.denoise(prefix, noisy[index : index + 1], time[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=1e-4)


def test_padding_of_a_short_instruction_changes_nothing() -> None:
    network = make_network()
    noisy, time = normal(2, H, D, M), torch.tensor([0.3, 0.8])
    longer = observe(network, texts=["short", "an instruction that is much longer"])
    alone = replace(row(longer, 0), instruction=encode_instructions(["short"], 64, 4))
    assert alone.instruction is not None and longer.instruction is not None
    assert alone.instruction.shape[1] < longer.instruction.shape[1]
    padded = network.denoise(network.encode_prefix(longer), noisy, time)[:1]
    plain = network.denoise(network.encode_prefix(alone), noisy[:1], time[:1])
    torch.testing.assert_close(padded, plain, atol=1e-5, rtol=1e-4)


def test_the_prefix_never_depends_on_actions() -> None:
    network = make_network()
    prefix = network.encode_prefix(observe(network))
    before = [(layer.keys.clone(), layer.values.clone()) for layer in prefix.layers]
    noisy = normal(2, H, D, M).requires_grad_()
    first = network.denoise(prefix, noisy, torch.tensor([0.2, 0.4]))
    network.denoise(prefix, 100 * normal(2, H, D, M, seed=1), torch.tensor([0.9, 0.1]))
    again = network.denoise(prefix, noisy, torch.tensor([0.2, 0.4]))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    for layer, (keys, values) in zip(prefix.layers, before, strict=True):
        assert torch.equal(layer.keys, keys) and torch.equal(layer.values, values)
        gradient = torch.autograd.grad(layer.keys.sum(), noisy, allow_unused=True)[0]
        assert gradient is None


def test_every_step_sees_the_other_steps_the_time_and_the_observation() -> None:
    network = make_network()
    observation = observe(network)
    noisy, time = normal(2, H, D, M), torch.tensor([0.2, 0.4])
    plain = network.denoise(network.encode_prefix(observation), noisy, time)

    def difference(observation: Observation, noisy: Tensor, time: Tensor) -> Tensor:
        other = network.denoise(network.encode_prefix(observation), noisy, time)
        return (other - plain).abs().amax(dim=(2, 3))  # (B, H)

    moved = noisy.clone()
    moved[0, -1] += 1.0
    changed = difference(observation, moved, time)
    assert (changed[0] > 1e-6).all() and (changed[1] == 0).all()
    assert (difference(observation, noisy, time + 0.3) > 1e-6).all()
    for name in network.cameras:
        images = {**observation.images, name: 1 - observation.images[name]}
        assert (difference(replace(observation, images=images), noisy, time) > 1e-7).all()
    for name in network.vectors:
        vectors = {**observation.vectors, name: observation.vectors[name] + 1}
        assert (difference(replace(observation, vectors=vectors), noisy, time) > 1e-7).all()
    other_text = encode_instructions(["task 2", "task 3"], 64, 4)
    assert (difference(replace(observation, instruction=other_text), noisy, time) > 1e-7).all()


@pytest.mark.parametrize("cameras", [(), ("a",), ("a", "b"), ("a", "b", "c")])
def test_any_number_of_cameras_of_any_size(cameras: tuple[str, ...]) -> None:
    network = make_network(cameras=cameras)
    prefix = network.encode_prefix(observe(network))
    logits = network.denoise(prefix, normal(2, H, D, M), torch.tensor([0.5, 0.6]))
    assert logits.shape == (2, H, D, V)
    assert torch.isfinite(logits).all()


def test_cameras_are_told_apart() -> None:
    network = make_network(cameras=("a", "b"), vectors={}, use_instruction=False)
    image, other = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    noisy, time = normal(1, H, D, M), torch.tensor([0.5])
    one, swapped = (
        network.denoise(network.encode_prefix(Observation({"a": a, "b": b}, {})), noisy, time)
        for a, b in ((image, other), (other, image))
    )
    assert (one - swapped).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("cameras", "vectors"), [((), {"state": 4}), (("front",), {})], ids=["vectors", "images"]
)
@pytest.mark.parametrize("use_instruction", [True, False])
def test_vectors_alone_and_images_alone(
    cameras: tuple[str, ...], vectors: dict[str, int], use_instruction: bool
) -> None:
    network = make_network(cameras, vectors, use_instruction)
    prefix = network.encode_prefix(observe(network))
    assert torch.isfinite(network.denoise(prefix, normal(2, H, D, M), torch.rand(2))).all()


def test_a_policy_without_eyes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one camera or one vector"):
        make_network((), {})


def test_an_empty_instruction_works_beside_a_long_one() -> None:
    network = make_network(cameras=())
    noisy, time = normal(2, H, D, M), torch.rand(2, generator=seeded())
    both = observe(network, texts=["", "do it now"])
    padded = network.denoise(network.encode_prefix(both), noisy, time)
    alone = replace(row(both, 0), instruction=encode_instructions([""], 64, 4))
    plain = network.denoise(network.encode_prefix(alone), noisy[:1], time[:1])
    torch.testing.assert_close(padded[:1], plain, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cameras", [("front", "wrist"), ()])
def test_gradients_reach_every_parameter(cameras: tuple[str, ...]) -> None:
    network = make_network(cameras, shaken=False)
    observation = observe(network, texts=["ab", "".join(map(chr, range(32, 64)))])
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-2)
    for _ in range(2):  # a modulation that starts at zero passes no gradient the first time
        optimizer.zero_grad()
        prefix = network.encode_prefix(observation)
        logits = network.denoise(prefix, normal(4, H, D, M), torch.rand(4, generator=seeded()))
        (logits * normal(4, H, D, V, seed=1)).sum().backward()
        optimizer.step()
    without = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert without == []


def test_compiled_denoising_gives_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network(cameras=("front",))
    prefix = network.encode_prefix(observe(network))
    noisy, time = normal(2, H, D, M), torch.tensor([0.2, 0.7])
    expected = network.denoise(prefix, noisy, time)
    calls = 0

    def count(graph: torch.fx.GraphModule, _: list[Tensor]):
        nonlocal calls
        calls += 1
        return graph.forward

    original = torch.compile
    # The graph is captured for real; only the code generator, which needs a compiler, is left out.
    monkeypatch.setattr(torch, "compile", lambda function: original(function, backend=count))
    network.compile_denoising()
    torch.testing.assert_close(network.denoise(prefix, noisy, time), expected)
    assert calls == 1


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "average"])
def test_a_copy_of_a_compiled_network_computes_with_its_own_weights(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Averages and teachers are such copies."""
    monkeypatch.setattr(torch, "compile", lambda function: functools.wraps(function)(function))
    network = make_network(cameras=("front",))
    network.compile_denoising()
    changed = {"action_tokens.output.weight": normal(*network.action_tokens.output.weight.shape)}
    if way == "average":
        other = with_weights(network, changed)
    else:
        copies = {"deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}
        other = copies[way](network)
        other.load_state_dict(changed, strict=False)
    plain = make_network(cameras=("front",))
    plain.load_state_dict(changed, strict=False)
    prefix = network.encode_prefix(observe(network))
    noisy, time = normal(2, H, D, M), torch.tensor([0.2, 0.7])
    found, expected = (each.denoise(prefix, noisy, time) for each in (other, plain))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, network.denoise(prefix, noisy, time))
    assert other._compiled is not None  # a copy compiles, too


# Names of features as names of modules


@pytest.mark.parametrize(
    "features",
    [
        ("a.b", "a_b"),
        ("a.b.c", "a_b.c", "a.b_c", "a_b_c"),
        ("a.b", "a_b", "vector_a_db", "a_db"),
        ("keys", "state"),
        ("training", "forward", "observation.state"),
    ],
)
def test_every_vector_has_a_projection_of_its_own(features: tuple[str, ...]) -> None:
    network = make_network(cameras=(), vectors=dict.fromkeys(features, 4), use_instruction=False)
    assert len(network.vector_projections) == len(features)
    vectors = {name: normal(2, 4, seed=i) for i, name in enumerate(features)}
    prefix = network.encode_prefix(Observation({}, vectors))
    swapped = dict(zip(features, reversed(vectors.values()), strict=True))
    other = network.encode_prefix(Observation({}, swapped))
    assert not torch.allclose(prefix.layers[-1].values, other.layers[-1].values)
    make_network(
        cameras=(), vectors=dict.fromkeys(features, 4), use_instruction=False
    ).load_state_dict(network.state_dict())


def test_names_of_earlier_checkpoints_stay() -> None:
    names = module_names(["observation.state", "observation.environment_state"])
    assert list(names.values()) == ["observation_state", "observation_environment_state"]


# Observations that do not fit


def test_a_wrong_camera_names_what_was_expected_and_what_came() -> None:
    network = make_network()
    observation = observe(network)
    images = {"front": observation.images["front"], "side": observation.images["wrist"]}
    with pytest.raises(ValueError, match=r"cameras \['front', 'wrist'\].*\['front', 'side'\]"):
        network.encode_prefix(replace(observation, images=images))


def test_a_missing_vector_names_what_was_expected_and_what_came() -> None:
    network = make_network(vectors={"state": 4, "force": 3})
    observation = observe(network)
    vectors = {"state": observation.vectors["state"]}
    with pytest.raises(
        ValueError, match=r"vector features \['force', 'state'\], the batch has \['state'\]"
    ):
        network.encode_prefix(replace(observation, vectors=vectors))


def test_a_missing_instruction_is_an_error() -> None:
    network = make_network()
    with pytest.raises(ValueError, match="built with instructions; the batch has none"):
        network.encode_prefix(replace(observe(network), instruction=None))


@pytest.mark.parametrize(
    ("image", "vector", "message"),
    [
        ((2, 1, 32, 32), (2, 4), r"image 'front' must have shape \(B, 3, .*got \(2, 1, 32, 32\)"),
        ((3, 32, 32), (2, 4), r"image 'front' must have shape .*got \(3, 32, 32\)"),
        ((2, 3, 32, 32), (2, 5), r"'state' must have shape \(B, 4\), got \(2, 5\)"),
        ((2, 3, 32, 32), (4,), r"'state' must have shape \(B, 4\), got \(4,\)"),
    ],
)
def test_another_shape_names_the_feature(
    image: tuple[int, ...], vector: tuple[int, ...], message: str
) -> None:
    network = make_network(("front",), {"state": 4}, use_instruction=False)
    observation = Observation({"front": torch.zeros(image)}, {"state": torch.zeros(vector)})
    with pytest.raises(ValueError, match=message):
        network.encode_prefix(observation)


def test_images_of_whole_numbers_are_refused() -> None:
    network = make_network(("front",), {"state": 4}, use_instruction=False)
    image = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(
        ValueError, match=r"'front' must be float in \[0, 1\], got torch.uint8: div"
    ):
        network.encode_prefix(Observation({"front": image}, {"state": torch.zeros(2, 4)}))


# Instructions


def test_instructions_are_utf8_bytes_padded_to_whole_patches() -> None:
    text = "öffne die 抽屉"
    encoded = encode_instructions([text, "ok"], 64, 4)
    data = list(text.encode("utf-8"))
    assert encoded.shape == (2, -(-len(data) // 4) * 4)
    assert encoded[0, : len(data)].tolist() == data
    assert encoded[1].tolist() == [*b"ok"] + [PADDING] * (encoded.shape[1] - 2)


def test_a_long_instruction_is_refused_and_says_by_how_much() -> None:
    assert encode_instructions(["x" * 16], 16, 8).shape == (1, 16)
    with pytest.raises(ValueError, match="has 19 bytes, 3 more than this policy's maximum of 16"):
        encode_instructions(["fine", "x" * 19], 16, 8)
    with pytest.raises(ValueError, match="has 18 bytes, 2 more"):
        encode_instructions(["抽" * 6], 16, 8)  # bytes count, not letters


def test_byte_tokens_are_real_where_there_is_text() -> None:
    embedding = ByteEmbedding(8, patch=4)
    tokens, mask = embedding(encode_instructions(["abcde", "ab"], 64, 4))
    assert tokens.shape == (2, 2, 8)
    assert mask.tolist() == [[True, True], [True, False]]
