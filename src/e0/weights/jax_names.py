"""The parameters that E0's authors released (JAX, a fork of openpi) under LeRobot's pi-0 names.

Flax keeps the layers of a stack in one array, and its kernels are (inputs, outputs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from e0.weights.entries import Entries, Entry, WeightsError

JAX_MARK = "PaliGemma/llm/"
VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
PROJECTOR = "paligemma_with_expert.paligemma.model.multi_modal_projector.linear."
LANGUAGE = "paligemma_with_expert.paligemma.model.language_model."
EXPERT = "paligemma_with_expert.gemma_expert.model."
ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}

Rule = tuple[str, Callable[[Tensor], Tensor]]


def translate_jax(entries: Entries) -> Entries:
    """Every tensor by LeRobot's pi-0 names, `e0_action_in_proj` and the like by their own.

    Raises WeightsError for a name that is not known, listing all of them.
    """
    translated: dict[str, Entry] = {}
    unknown = []
    for name, entry in entries.items():
        name = name.removeprefix("params/").removesuffix("/value")
        rules = list(_rules(name, entry.shape))
        if not rules:
            unknown.append(f"{name} {entry.shape}")
        translated |= {target: entry.apply(function) for target, function in rules}
    if unknown:
        raise WeightsError(
            f"{len(unknown)} parameters have names that E0's release does not: {'; '.join(unknown)}"
        )
    return translated


def _rules(name: str, shape: tuple[int, ...]) -> Iterator[Rule]:
    """The tensors that a parameter becomes."""
    if name.startswith("PaliGemma/img/"):
        yield from _vision(name.removeprefix("PaliGemma/img/"), shape)
    elif name.startswith("PaliGemma/llm/"):
        yield from _language(name.removeprefix("PaliGemma/llm/"), shape)
    elif name.count("/") == 1 and name.endswith(("/kernel", "/bias")):
        layer, kind = name.split("/")
        yield _dense(f"{layer}.", kind)


def _dense(target: str, kind: str) -> Rule:
    """A linear layer: Flax' kernel is PyTorch's weight turned."""
    return (target + "weight", _turn) if kind == "kernel" else (target + "bias", _same)


def _vision(name: str, shape: tuple[int, ...]) -> Iterator[Rule]:
    parts = name.split("/")
    match parts:
        case ["embedding", "kernel"]:
            patches = VISION + "embeddings.patch_embedding.weight"
            yield patches, lambda x: x.permute(3, 2, 0, 1)
        case ["embedding", "bias"]:
            yield VISION + "embeddings.patch_embedding.bias", _same
        case ["pos_embedding"]:
            yield VISION + "embeddings.position_embedding.weight", lambda x: x[0]
        case ["head", kind]:
            yield _dense(PROJECTOR, kind)
        case ["Transformer", "encoder_norm", kind]:
            yield VISION + "post_layernorm." + _norm_kind(kind), _same
        case ["Transformer", "encoderblock", *layer]:
            for index in range(shape[0]):
                target, function = _vision_layer(layer)
                yield f"{VISION}encoder.layers.{index}.{target}", _at(index, function)


def _vision_layer(parts: list[str]) -> Rule:
    match parts:
        case ["LayerNorm_0" | "LayerNorm_1" as norm, kind]:
            return f"layer_norm{int(norm[-1]) + 1}.{_norm_kind(kind)}", _same
        case ["MlpBlock_0", "Dense_0" | "Dense_1" as dense, kind]:
            return _dense(f"mlp.fc{int(dense[-1]) + 1}.", kind)
        case ["MultiHeadDotProductAttention_0", "out", "kernel"]:
            return "self_attn.out_proj.weight", lambda x: x.flatten(0, 1).T
        case ["MultiHeadDotProductAttention_0", "out", "bias"]:
            return "self_attn.out_proj.bias", _same
        case ["MultiHeadDotProductAttention_0", role, "kernel"] if role in ATTENTION:
            return f"self_attn.{ATTENTION[role]}.weight", lambda x: x.flatten(1).T
        case ["MultiHeadDotProductAttention_0", role, "bias"] if role in ATTENTION:
            return f"self_attn.{ATTENTION[role]}.bias", lambda x: x.flatten()
    raise WeightsError(f"no such part of a SigLIP layer: {'/'.join(parts)}")


def _language(name: str, shape: tuple[int, ...]) -> Iterator[Rule]:
    parts = name.split("/")
    if parts == ["embedder", "input_embedding"]:
        yield LANGUAGE + "embed_tokens.weight", _same
        return
    # The second expert's parts have the suffix _1, in whichever place of the name.
    stream = EXPERT if any(part.endswith("_1") for part in parts) else LANGUAGE
    parts = [part.removesuffix("_1") for part in parts]
    match parts:
        case ["final_norm", *norm]:
            target, function = _norm("norm", norm)
            yield stream + target, function
        case ["layers", *layer]:
            for index in range(shape[0]):
                for target, function in _language_layer(layer):
                    yield f"{stream}layers.{index}.{target}", _at(index, function)


def _language_layer(parts: list[str]) -> Iterator[Rule]:
    match parts:
        case ["attn", "q_einsum", "w"]:  # (heads, C, width of a head)
            yield "self_attn.q_proj.weight", _heads_first
        case ["attn", "kv_einsum", "w"]:  # (2, heads, C, width of a head)
            yield "self_attn.k_proj.weight", lambda x: _heads_first(x[0])
            yield "self_attn.v_proj.weight", lambda x: _heads_first(x[1])
        case ["attn", "attn_vec_einsum", "w"]:  # (heads, width of a head, C)
            yield "self_attn.o_proj.weight", lambda x: x.flatten(0, 1).T
        case ["mlp", "gating_einsum"]:
            yield "mlp.gate_proj.weight", lambda x: x[0].T
            yield "mlp.up_proj.weight", lambda x: x[1].T
        case ["mlp", "linear"]:
            yield "mlp.down_proj.weight", _turn
        case ["pre_attention_norm", *norm]:
            yield _norm("input_layernorm", norm)
        case ["pre_ffw_norm", *norm]:
            yield _norm("post_attention_layernorm", norm)


def _norm(target: str, parts: list[str]) -> Rule:
    """A plain RMSNorm has a scale, an adaptive one a linear layer."""
    if parts == ["scale"]:
        return f"{target}.weight", _same
    return _dense(f"{target}.dense.", parts[-1])


def _norm_kind(kind: str) -> str:
    return "weight" if kind == "scale" else kind


def _at(index: int, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`function` of one layer of a stack."""
    return lambda x: function(x[index])


def _same(x: Tensor) -> Tensor:
    return x


def _turn(x: Tensor) -> Tensor:
    return x.T


def _heads_first(x: Tensor) -> Tensor:
    """(heads, C, width) -> (heads · width, C)."""
    return x.transpose(1, 2).flatten(0, 1)
