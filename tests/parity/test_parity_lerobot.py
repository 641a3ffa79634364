"""Our network with LeRobot's pi-0 and pi-0.5 weights against LeRobot's own model, in float32.

Tolerance: 1e-4 of the largest number of what is compared.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from e0.network.language import NO_WORD
from e0.network.policy_network import Observation
from e0.policy import Policy, PolicySettings
from e0.weights import Source, import_weights
from e0.weights.entries import Entry
from parity.lerobot_models import Reference, make_reference, tiny_preset

TOLERANCE = 1e-4
BATCH, HORIZON, ACTION_DIM, STATE_DIM, WORDS = 2, 6, 32, 32, 7


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.abs().max() > 1e-3, "nothing to compare"
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


@pytest.fixture(scope="module", params=["pi0", "pi05"])
def reference(request: pytest.FixtureRequest) -> Reference:
    return make_reference(request.param)


def make_policy(reference: Reference, **changes: object) -> Policy:
    """Our policy with flow matching, which is what these models do."""
    vectors = {"observation.state": STATE_DIM} if reference.kind == "pi0" else {}
    settings = PolicySettings(
        cameras=("base", "wrist"),
        vectors=vectors,
        action_dim=ACTION_DIM,
        horizon=HORIZON,
        preset=tiny_preset(reference.kind),
        objective="flow",
        **changes,  # type: ignore[arg-type]
    )
    policy = Policy(settings).eval()
    # Codes from -100 to 100 with mean 0 and deviation 1: actions pass as they are.
    policy.tokenizer.fit_statistics(
        {
            "mean": torch.zeros(ACTION_DIM),
            "std": torch.ones(ACTION_DIM),
            "min": torch.full((ACTION_DIM,), -100.0),
            "max": torch.full((ACTION_DIM,), 100.0),
        },
        "uniform",
    )
    entries = {name: Entry.of(tensor) for name, tensor in reference.model.state_dict().items()}
    import_weights(policy, Source(reference.kind, Path("lerobot"), (), entries))
    return policy


def inputs() -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor]:
    """Images in [0, 1], word indices and which are real, states, noise."""
    images = [torch.rand(BATCH, 3, 224, 224, generator=seeded(i)) for i in range(2)]
    words = torch.randint(0, 250_000, (BATCH, WORDS), generator=seeded(2))
    real = torch.arange(WORDS)[None] < torch.tensor([[WORDS], [4]])
    state = torch.randn(BATCH, STATE_DIM, generator=seeded(3))
    noise = torch.randn(BATCH, HORIZON, ACTION_DIM, generator=seeded(4))
    return images, words, real, state, noise


def observe(policy: Policy, images: list[Tensor], words: Tensor, real: Tensor, state: Tensor):
    return Observation(
        dict(zip(policy.settings.cameras, images, strict=True)),
        {name: state for name in policy.settings.vectors},
        words.masked_fill(~real, NO_WORD),
    )


def their_arguments(reference: Reference) -> list[object]:
    """What their `sample_actions` takes before the noise; one absent camera is masked out."""
    images, words, real, state, _ = inputs()
    present = torch.ones(BATCH, dtype=torch.bool)
    pictures = [image * 2 - 1 for image in images] + [torch.full_like(images[0], -1.0)]
    arguments: list[object] = [pictures, [present, present, ~present], words, real]
    return [*arguments, state] if reference.kind == "pi0" else arguments


@torch.no_grad()
def test_prefix_has_the_same_keys_and_values_in_every_layer(reference: Reference) -> None:
    policy = make_policy(reference)
    images, words, real, state, _ = inputs()
    prefix = policy.network.encode_prefix(observe(policy, images, words, real, state))
    model = reference.model
    embedded, padding, attention = model.embed_prefix(*their_arguments(reference)[:4])
    masks = reference.module.make_att_2d_masks(padding, attention)
    _, cache = model.paligemma_with_expert.forward(
        attention_mask=reference.module.prepare_attention_masks_4d(masks),
        position_ids=torch.cumsum(padding, dim=1) - 1,
        inputs_embeds=[embedded, None],
        use_cache=True,
    )
    patches = 2 * (224 // 56) ** 2
    own = torch.cat((torch.ones(BATCH, patches, dtype=torch.bool), real), dim=1)
    for ours, theirs in zip(prefix.layers, cache, strict=True):
        for mine, other in zip(ours, theirs[:2], strict=True):
            there = [x[:, 0][p] for x, p in ((mine[:, :, : own.shape[1]], own), (other, padding))]
            assert_close(*there)


@torch.no_grad()
def test_one_pass_of_the_expert_gives_the_same_velocity(reference: Reference) -> None:
    policy = make_policy(reference)
    images, words, real, state, noise = inputs()
    time = torch.tensor([0.9, 0.1])
    prefix = policy.network.encode_prefix(observe(policy, images, words, real, state))
    ours = policy.network.denoise(prefix, noise[..., None], time)[..., 0]
    clean = torch.randn(noise.shape, generator=seeded(9))
    # Their training loss is (noise - clean - velocity)², at a chunk that we choose to be `noise`.
    t = time[:, None, None]
    fresh = (noise - (1 - t) * clean) / t
    error = reference.model.forward(*their_arguments(reference), clean, fresh, time)
    assert_close((fresh - clean - ours).square(), error)


@torch.no_grad()
def test_a_whole_flow_sample_is_the_same(reference: Reference) -> None:
    policy = make_policy(reference)
    images, words, real, state, noise = inputs()
    observation = observe(policy, images, words, real, state)
    ours = policy.sample(observation, steps=10, noise=noise[..., None]).actions
    theirs = reference.model.sample_actions(*their_arguments(reference), noise=noise, num_steps=10)
    assert_close(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(480, 640), (375, 500), (224, 300), (100, 90)])
def test_images_are_resized_as_theirs(height: int, width: int) -> None:
    from lerobot.policies.common.vla_utils import resize_with_pad_torch

    from e0.network.vision import resize

    images = torch.rand(2, 3, height, width, generator=seeded(0))
    theirs = resize_with_pad_torch(images, 224, 224)
    torch.testing.assert_close(
        resize(images, (224, 224), antialias=False), theirs, rtol=0, atol=1e-6
    )
