"""Which tensors of a source each parameter of a policy is made of.

A plan says it by name: the parameters are this project's, the tensors LeRobot's pi-0's, as
`e0.weights.sources` gives them whoever wrote the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from e0.network.policy_network import PolicyNetwork, module_names
from e0.network.siglip import SiglipTower
from e0.policy import Policy

PALIGEMMA = "paligemma_with_expert.paligemma.model."
VISION = PALIGEMMA + "vision_tower.vision_model."
LANGUAGE = PALIGEMMA + "language_model."
EXPERT = "paligemma_with_expert.gemma_expert.model."
WORDS = LANGUAGE + "embed_tokens.weight"
TIED_WORDS = "paligemma_with_expert.paligemma.lm_head.weight"
STATE_FEATURES = ("observation.state", "state")

Cut = Literal["rows", "columns"]


@dataclass(frozen=True)
class Assignment:
    """A parameter is the concatenation of `sources`.

    cut: where the source may be larger, and only its first rows or columns are meant.
    """

    target: str
    sources: tuple[str, ...]
    cut: Cut | None = None


def plan(policy: Policy, kind: str) -> list[Assignment]:
    """All parameters of the policy that a source of this kind determines."""
    network = policy.network
    assignments = [*_vision(network), *_language(network)]
    if kind != "paligemma":
        assignments += [*_expert(network), *_actions(policy, kind), *_state(network)]
    return assignments


def unused_reason(name: str, policy: Policy, kind: str) -> str | None:
    """Why a tensor of the source has no place in this policy, None if it should have one."""
    network = policy.network
    last = rf"{re.escape(LANGUAGE)}layers\.{network.preset.depth - 1}\."
    if name == "paligemma_with_expert.gemma_expert.lm_head.weight":
        return "vocabulary head of the action expert: it says no words"
    if name in (TIED_WORDS, WORDS) and network.language is not None:
        return "the same numbers as the word embedding"
    if name in (TIED_WORDS, WORDS):
        return "this policy reads no instructions"
    if name == LANGUAGE + "norm.weight" or re.match(
        last + r"(self_attn\.[qo]_proj|mlp|post_attention_layernorm)\.", name
    ):
        return "output of the language model's last layer, which nothing reads"
    if name.startswith((VISION, PALIGEMMA + "multi_modal_projector.")) and network.tower is None:
        return "this policy has no cameras"
    if re.fullmatch(r"(action_in_proj|action_out_proj)\.(weight|bias)", name):
        return "reads noisy actions or writes velocities; this objective does not"
    if name.startswith("state_proj."):
        if network.preset.state == "prompt":
            return "the state is in the prompt"
        return f"this policy has no feature called {' or '.join(STATE_FEATURES)}"
    if kind == "e0-authors" and re.match(r"(e0_)?action_time_mlp_(in|out)\.", name):
        return "the time enters by adaptive norms"
    if kind == "e0-authors" and re.match(r"e0_action_(in|out)_proj\.", name):
        return "one-hot codes of one dimension; this policy's tokens or head are others"
    return None


def fresh_reason(target: str, policy: Policy, kind: str) -> str | None:
    """Why the source cannot say what a parameter is, None if it should."""
    if target.startswith("action_tokens.input"):
        return "the source reads another kind of action token"
    if target.startswith("action_tokens.output"):
        return "the source has no logits over these codes"
    if target.startswith("vector_projections."):
        return "the source knows no such feature"
    if kind == "paligemma" and not target.startswith(("tower.", "language.", "prefix_")):
        return "PaliGemma has no action expert"
    return None


def _linear(target: str, *sources: str, bias: bool) -> Iterator[Assignment]:
    for part in ("weight", "bias") if bias else ("weight",):
        yield Assignment(f"{target}.{part}", tuple(f"{source}.{part}" for source in sources))


def _vision(network: PolicyNetwork) -> Iterator[Assignment]:
    if not isinstance(network.tower, SiglipTower):
        return
    yield from _linear("tower.patches", VISION + "embeddings.patch_embedding", bias=True)
    yield Assignment("tower.positions", (VISION + "embeddings.position_embedding.weight",))
    for index in range(len(network.tower.blocks)):
        own, theirs = f"tower.blocks.{index}.", f"{VISION}encoder.layers.{index}."
        attention = [f"{theirs}self_attn.{role}_proj" for role in "qkv"]
        yield from _linear(own + "attention_norm", theirs + "layer_norm1", bias=True)
        yield from _linear(own + "query_key_value", *attention, bias=True)
        yield from _linear(own + "output", theirs + "self_attn.out_proj", bias=True)
        yield from _linear(own + "mlp_norm", theirs + "layer_norm2", bias=True)
        yield from _linear(own + "up", theirs + "mlp.fc1", bias=True)
        yield from _linear(own + "down", theirs + "mlp.fc2", bias=True)
    yield from _linear("tower.norm", VISION + "post_layernorm", bias=True)
    yield from _linear("tower.projection", PALIGEMMA + "multi_modal_projector.linear", bias=True)


def _language(network: PolicyNetwork) -> Iterator[Assignment]:
    if network.language is not None:
        yield Assignment("language.words.weight", (WORDS,), cut="rows")
    last = network.preset.depth - 1
    for index in range(last):
        own, theirs = f"prefix_blocks.{index}.", f"{LANGUAGE}layers.{index}."
        yield from _linear(own + "attention_norm", theirs + "input_layernorm", bias=False)
        yield from _linear(own + "mlp_norm", theirs + "post_attention_layernorm", bias=False)
        yield from _block(own, theirs)
    theirs = f"{LANGUAGE}layers.{last}."
    yield from _linear("prefix_norm", theirs + "input_layernorm", bias=False)
    yield from _key_value("prefix_key_value", theirs)


def _expert(network: PolicyNetwork) -> Iterator[Assignment]:
    adaptive = network.preset.time == "adaptive"
    for index in range(network.preset.depth):
        own, theirs = f"suffix_blocks.{index}.", f"{EXPERT}layers.{index}."
        yield from _norm(own + "attention_norm", theirs + "input_layernorm", adaptive)
        yield from _norm(own + "mlp_norm", theirs + "post_attention_layernorm", adaptive)
        yield from _block(own, theirs)
    yield from _norm("suffix_norm", EXPERT + "norm", network.preset.adaptive_output)
    prefix = "" if adaptive else "action_"
    yield from _linear("time.0", prefix + "time_mlp_in", bias=True)
    yield from _linear("time.2", prefix + "time_mlp_out", bias=True)


def _norm(own: str, theirs: str, adaptive: bool) -> Iterator[Assignment]:
    if adaptive:
        return _linear(own + ".modulation", theirs + ".dense", bias=True)
    return _linear(own, theirs, bias=False)


def _block(own: str, theirs: str) -> Iterator[Assignment]:
    """What blocks of both streams have in common: all but the norms."""
    yield from _linear(own + "attention.query", theirs + "self_attn.q_proj", bias=False)
    yield from _key_value(own + "attention.key_value", theirs)
    yield from _linear(own + "attention.output", theirs + "self_attn.o_proj", bias=False)
    gate_up = (theirs + "mlp.gate_proj", theirs + "mlp.up_proj")
    yield from _linear(own + "mlp.gate_up", *gate_up, bias=False)
    yield from _linear(own + "mlp.down", theirs + "mlp.down_proj", bias=False)


def _key_value(own: str, theirs: str) -> Iterator[Assignment]:
    both = (theirs + "self_attn.k_proj", theirs + "self_attn.v_proj")
    yield from _linear(own + ".projection", *both, bias=False)


def _actions(policy: Policy, kind: str) -> Iterator[Assignment]:
    """Projections of the action tokens, as far as the source has the same kind of token."""
    layout = policy.network.layout
    if layout.flow_tokens or (layout.grain == "step" and layout.input_width == 1):
        own = "action_tokens.flow_input" if layout.flow_tokens else "action_tokens.input"
        yield Assignment(own + ".weight", ("action_in_proj.weight",), cut="columns")
        yield Assignment(own + ".bias", ("action_in_proj.bias",))
    if layout.flow_tokens or (layout.grain == "step" and policy.settings.objective == "flow"):
        own = "action_tokens.flow_output" if layout.flow_tokens else "action_tokens.output"
        yield Assignment(own + ".weight", ("action_out_proj.weight",), cut="rows")
        yield Assignment(own + ".bias", ("action_out_proj.bias",), cut="rows")
    if kind != "e0-authors" or layout.grain != "dimension" or layout.causal:
        return
    vocabulary = policy.settings.vocabulary_size
    if layout.input_width - int(layout.flow_tokens) == vocabulary:
        yield from _linear("action_tokens.input", "e0_action_in_proj", bias=True)
    if layout.output_width - int(layout.flow_tokens) == vocabulary:
        yield from _linear("action_tokens.output", "e0_action_out_proj", bias=True)


def _state(network: PolicyNetwork) -> Iterator[Assignment]:
    if network.preset.state != "suffix":
        return
    for name in STATE_FEATURES:
        if name in network.vectors:
            own = f"vector_projections.{module_names(network.vectors)[name]}"
            yield Assignment(own + ".weight", ("state_proj.weight",), cut="columns")
            yield Assignment(own + ".bias", ("state_proj.bias",))
            return
