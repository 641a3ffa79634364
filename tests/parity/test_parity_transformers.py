"""SigLIP and Gemma against the modules of `transformers`, at a tiny size, in float32.

Tolerance: 1e-4 of the largest number of what is compared.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from e0.network.language import NO_WORD
from e0.network.policy_network import Observation
from e0.network.presets import PRESETS, WordShape
from e0.policy import Policy, PolicySettings
from e0.weights import import_weights
from e0.weights.entries import Entry
from e0.weights.sources import Source, recognize

TOLERANCE = 1e-4
VOCABULARY = 80
PRESET = replace(PRESETS["paligemma_debug"], language=WordShape(VOCABULARY))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.abs().max() > 1e-3, "nothing to compare"
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


@pytest.fixture(scope="module")
def paligemma():
    """transformers' PaliGemma with random weights that hide no mistake."""
    transformers = pytest.importorskip("transformers")
    text, vision = PRESET.prefix, PRESET.vision
    config = transformers.PaliGemmaConfig(
        text_config=dict(
            model_type="gemma",
            hidden_size=text.width,
            intermediate_size=text.hidden,
            num_attention_heads=text.heads,
            num_key_value_heads=text.key_value_heads,
            head_dim=text.head_width,
            num_hidden_layers=PRESET.depth,
            vocab_size=VOCABULARY,
            hidden_activation="gelu_pytorch_tanh",
        ),
        vision_config=dict(
            hidden_size=vision.width,
            intermediate_size=vision.hidden,
            num_attention_heads=vision.heads,
            num_hidden_layers=vision.depth,
            patch_size=vision.patch,
            image_size=224,
            projection_dim=text.width,
            vision_use_head=False,
        ),
        projection_dim=text.width,
        image_token_index=VOCABULARY - 1,
    )
    torch.manual_seed(0)
    model = transformers.PaliGemmaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_tokens" not in name and "lm_head" not in name:
                parameter.normal_(0.0, 0.3 if parameter.ndim == 1 else 0.15)
    return model


@pytest.fixture(scope="module")
def policy(paligemma) -> Policy:
    policy = Policy(PolicySettings(("camera",), {}, action_dim=2, preset=PRESET)).eval()
    tensors = {name: Entry.of(tensor) for name, tensor in paligemma.state_dict().items()}
    kind, entries = recognize(tensors, Path("paligemma"))
    report = import_weights(policy, Source(kind, Path("paligemma"), (), entries))
    assert kind == "paligemma"
    assert set(report.fresh.values()) <= {
        "PaliGemma has no action expert",
        "the source reads another kind of action token",
        "the source has no logits over these codes",
    }
    return policy


@torch.no_grad()
def test_siglip_is_that_of_transformers(paligemma, policy: Policy) -> None:
    images = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    theirs = paligemma.model.get_image_features(images * 2 - 1).pooler_output
    assert policy.network.tower is not None
    assert_close(policy.network.tower(images), theirs)


@torch.no_grad()
def test_gemma_is_that_of_transformers(paligemma, policy: Policy) -> None:
    """Keys and values of every layer, and the tokens between layers, for prompts of two lengths."""
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    words = torch.tensor([[5, 9, 70, 3], [8, 2, NO_WORD, NO_WORD]])
    tokens, mask = policy.network._embed(Observation({"camera": images}, {}, words))
    language = paligemma.model.language_model
    visible = mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
    additive = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    theirs = language(
        inputs_embeds=tokens,
        attention_mask=additive,
        position_ids=mask.long().cumsum(-1) - 1,
        use_cache=True,
        output_hidden_states=True,
    )
    prefix = policy.network.encode_prefix(Observation({"camera": images}, {}, words))
    for ours, cached in zip(prefix.layers, theirs.past_key_values, strict=True):
        assert_close(ours.keys[:, 0][mask], cached[0][:, 0][mask])
        assert_close(ours.values[:, 0][mask], cached[1][:, 0][mask])
    embedded = language.get_input_embeddings()(words[:1])
    assert policy.network.language is not None
    assert_close(policy.network.language(words[:1])[0], embedded)
