"""Weights of others: found in every form, accounted for to the last tensor, refused if wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from e0.network.presets import PRESETS
from e0.policy import Policy, PolicySettings
from e0.weights import WeightsError, convert_weights, import_weights, match_weights, open_source
from e0.weights.entries import Entry
from e0.weights.sources import INDEX, Source, recognize
from made_weights import DIMENSIONS, PRESET_OF, paligemma_weights, pi_weights

STATE = "observation.state"
TIED = "paligemma_with_expert.paligemma.lm_head.weight"
WORDS = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"


def make_policy(kind: str = "pi0", **own: Any) -> Policy:
    preset = own.pop("preset", PRESET_OF.get(kind, "paligemma_debug"))
    vectors = {STATE: 9} if PRESETS[preset].state != "prompt" else {}
    torch.manual_seed(0)
    return Policy(PolicySettings(("base",), vectors, 7, preset=preset, **own))


def write(tensors: dict[str, Tensor], file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return file


def write_shards(tensors: dict[str, Tensor], directory: Path) -> Path:
    names = sorted(tensors)
    places = {}
    for number in range(3):
        file = f"model-{number}.safetensors"
        write({name: tensors[name] for name in names[number::3]}, directory / file)
        places |= dict.fromkeys(names[number::3], file)
    (directory / INDEX).write_text(json.dumps({"weight_map": places}))
    return directory


def parameters(policy: Policy) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in policy.network.named_parameters()}


# Every form of a source gives the same policy


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
@pytest.mark.parametrize("form", ["file", "directory", "shards", "lerobot", "untied"])
def test_every_form_of_a_source_gives_the_same_policy(kind: str, form: str, tmp_path: Path) -> None:
    weights = pi_weights(kind)
    reference = make_policy(kind)
    import_weights(reference, open_source(write(weights, tmp_path / "reference.safetensors")))
    if form == "lerobot":  # whose names begin with `model.`
        weights = {f"model.{name}": tensor for name, tensor in weights.items()}
    if form == "untied":  # as openpi exports them
        del weights[WORDS]
    location = tmp_path / "source"
    if form == "shards":
        write_shards(weights, location)
    else:
        location = write(weights, location / "model.safetensors")
        location = location.parent if form == "directory" else location
    policy = make_policy(kind)
    report = import_weights(policy, open_source(location))
    assert report.kind == kind
    for name, tensor in parameters(policy).items():
        if name not in report.fresh:
            assert torch.equal(tensor, reference.network.get_parameter(name)), name


def test_parameters_hold_the_right_tensors() -> None:
    weights = pi_weights("pi0")
    policy = make_policy("pi0", objective="flow")
    entries = {name: Entry.of(tensor) for name, tensor in weights.items()}
    report = import_weights(policy, Source("pi0", Path("made"), (), entries))
    network = policy.network.state_dict()
    layer = "paligemma_with_expert.gemma_expert.model.layers.1."
    keys_values = [weights[f"{layer}self_attn.{role}_proj.weight"] for role in "kv"]
    assert torch.equal(
        network["suffix_blocks.1.attention.key_value.projection.weight"], torch.cat(keys_values)
    )
    assert torch.equal(
        network["action_tokens.input.weight"], weights["action_in_proj.weight"][:, :7]
    )
    assert torch.equal(network["action_tokens.output.bias"], weights["action_out_proj.bias"][:7])
    own = "vector_projections.observation_state.weight"
    assert torch.equal(network[own], weights["state_proj.weight"][:, :9])
    assert report.fresh == {}
    assert set(report.unused) | {n for names in report.used.values() for n in names} == set(weights)


@pytest.mark.parametrize("style", ["old", "new"])
def test_paligemma_of_transformers_leaves_the_expert_fresh(style: str, tmp_path: Path) -> None:
    weights = paligemma_weights(style)
    words = next(name for name in weights if name.endswith("embed_tokens.weight"))
    padded = torch.cat((weights[words], torch.randn(64, weights[words].shape[1])))
    weights[words] = padded  # transformers has rows for more words than pi-0
    policy = make_policy()
    report = import_weights(policy, open_source(write(weights, tmp_path / "model.safetensors")))
    assert report.kind == "paligemma"
    assert policy.network.language is not None
    embedded = policy.network.get_parameter("language.words.weight")
    assert torch.equal(embedded, padded[: len(embedded)])
    assert {name.split(".")[0] for name in report.fresh} == {
        "time",
        "action_tokens",
        "suffix_blocks",
        "suffix_norm",
        "vector_projections",
    }
    assert "PaliGemma has no action expert" in report.summary()


def test_authors_names_may_be_wrapped(tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "data/official_e0_tiny"
    original = load_file(folder / "official_e0_tiny_params.safetensors")
    wrapped = {f"params/{name}/value": tensor for name, tensor in original.items()}
    _, plain_entries = recognize({n: Entry.of(t) for n, t in original.items()}, folder)
    kind, entries = recognize({n: Entry.of(t) for n, t in wrapped.items()}, folder)
    assert kind == "e0-authors"
    assert entries.keys() == plain_entries.keys()
    with pytest.raises(WeightsError, match=r"1 parameters have names.*PaliGemma/llm/new"):
        recognize({"PaliGemma/llm/new": Entry.of(torch.zeros(2))}, folder)


# All tensors at full size, on the meta device


@pytest.mark.parametrize(("kind", "count"), [("pi0", 778), ("pi05", 813)])
@pytest.mark.parametrize("objective", ["e0", "flow"])
def test_every_tensor_of_the_full_size_has_its_place(kind: str, count: int, objective: str) -> None:
    theirs = _lerobots_state(kind)
    assert len(theirs) == count
    entries = {name: Entry.of(tensor) for name, tensor in theirs.items()}
    found, named = recognize(entries, Path("lerobot"))
    assert found == kind
    preset = "paligemma_pi0" if kind == "pi0" else "paligemma"
    vectors = {STATE: 32} if kind == "pi0" else {}
    with torch.device("meta"):
        policy = Policy(
            PolicySettings(("base", "wrist"), vectors, 32, 50, preset, objective=objective)
        )
    ready, report = match_weights(policy, Source(kind, Path("lerobot"), (), named))
    used = {name for names in report.used.values() for name in names}
    assert len(used) + len(report.unused) == count
    assert not used & set(report.unused)
    fresh = (
        set()
        if objective == "flow"
        else {"action_tokens.output.weight", "action_tokens.output.bias"}
    )
    assert set(report.fresh) == fresh
    shapes = {name: tuple(p.shape) for name, p in policy.network.named_parameters()}
    assert {name: entry.shape for name, entry in ready.items()} == {
        name: shape for name, shape in shapes.items() if name not in fresh
    }


def _lerobots_state(kind: str) -> dict[str, Tensor]:
    pytest.importorskip("transformers")
    from lerobot.configs import FeatureType, PolicyFeature

    if kind == "pi0":
        from lerobot.policies.pi0.configuration_pi0 import PI0Config as Config
        from lerobot.policies.pi0.modeling_pi0 import PI0Policy as Theirs
    else:
        from lerobot.policies.pi05.configuration_pi05 import PI05Config as Config
        from lerobot.policies.pi05.modeling_pi05 import PI05Policy as Theirs
    config = Config(device="cpu")
    config.input_features = {
        "observation.images.base_0_rgb": PolicyFeature(FeatureType.VISUAL, (3, 224, 224)),
        STATE: PolicyFeature(FeatureType.STATE, (32,)),
    }
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (32,))}
    config.device = "meta"
    with torch.device("meta"):
        return Theirs(config).state_dict()


# What does not fit


def _without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in pi_weights("pi0").items() if key != name}


@pytest.mark.parametrize(
    ("weights", "own", "message"),
    [
        (_without("state_proj.bias"), {}, "missing state_proj.bias, for vector_projections"),
        (
            pi_weights("pi0") | {"action_in_proj.weight": torch.zeros(9, DIMENSIONS)},
            {},
            r"action_in_proj.weight \(9, 32\), expected \(32, 7\)",
        ),
        (
            pi_weights("pi0") | {"surprise.weight": torch.zeros(2)},
            {},
            "nothing uses surprise.weight",
        ),
        (pi_weights("pi0"), {"preset": "paligemma_debug"}, "belong into the preset paligemma_pi0"),
        (
            pi_weights("pi05"),
            {"preset": "paligemma_pi0_debug"},
            "belong into the preset paligemma,",
        ),
        (pi_weights("pi0"), {"preset": "tiny"}, "belong into the preset paligemma_pi0"),
        (paligemma_weights("new"), {"preset": "tiny"}, "belong into the preset paligemma"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(
    weights: dict[str, Tensor], own: dict[str, Any], message: str, tmp_path: Path
) -> None:
    policy = make_policy("pi0", **own)
    before = parameters(policy)
    with pytest.raises(WeightsError, match=message):
        import_weights(policy, open_source(write(weights, tmp_path / "model.safetensors")))
    assert all(torch.equal(before[name], p) for name, p in parameters(policy).items())


def test_all_differences_are_listed(tmp_path: Path) -> None:
    weights = pi_weights("pi0")
    gone = [name for name in weights if ".layers.0.self_attn." in name and "gemma_expert" in name]
    for name in gone:
        del weights[name]
    with pytest.raises(WeightsError) as error:
        import_weights(make_policy("pi0"), open_source(write(weights, tmp_path / "w.safetensors")))
    assert f"{len(gone)} differences" in str(error.value)
    assert all(name in str(error.value) for name in gone)


def test_more_action_dimensions_than_the_source_has_are_refused(tmp_path: Path) -> None:
    source = open_source(write(pi_weights("pi05"), tmp_path / "w.safetensors"))
    policy = Policy(PolicySettings(("base",), {}, DIMENSIONS + 1, preset="paligemma_debug"))
    with pytest.raises(
        WeightsError, match=r"action_in_proj.weight \(32, 32\), expected \(32, 33\)"
    ):
        import_weights(policy, source)


# Files that are none


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_cut, "damaged or cut off"),
        (lambda path: path.write_bytes(b""), "0 bytes, damaged"),
        (lambda path: path.write_text("<html>not found</html>"), "it is text, beginning"),
        (
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid 1"),
            "Git LFS pointer",
        ),
        (lambda path: torch.save({"a": torch.zeros(2)}, path), "zip archive"),
        (
            lambda path: path.write_bytes(b"\x80\x04\x95pickle"),
            "Python pickle, which is not opened",
        ),
        (
            lambda path: save_file({"layer.weight": torch.zeros(3, 4)}, path),
            r"layer.weight \(3, 4\)",
        ),
        (lambda path: save_file({}, path), "0 tensors, none at all"),
        (
            lambda path: save_file({"a": torch.zeros(3, dtype=torch.int8)}, path),
            "has type I8; weights are floating point",
        ),
    ],
)
def test_files_that_hold_no_weights_are_named(spoil: Any, message: str, tmp_path: Path) -> None:
    path = write(pi_weights("pi0"), tmp_path / "model.safetensors")
    spoil(path)
    with pytest.raises(WeightsError, match=message):
        open_source(path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ('{"weight_map": {"a": "../secret.safetensors"}}', "names files outside its directory"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "lacks gone.safetensors"),
        ('{"weights": {}}', "is no index"),
        ("[]", "is no index"),
        ("{", "is no index"),
    ],
)
def test_damaged_indices_are_refused(index: str, message: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(WeightsError, match=message):
        open_source(tmp_path)


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"must hold one safetensors file.*found none"):
        open_source(tmp_path)


def test_orbax_needs_its_library(tmp_path: Path) -> None:
    (tmp_path / "_METADATA").write_text("{}")
    with pytest.raises(WeightsError, match="pip install orbax-checkpoint"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["nobody/nothing_of_this_name", "no such place", "/no/such/file"])
def test_places_that_do_not_exist_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"hub did not give it|neither a file"):
        open_source(name)


# Converting


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_converted_weights_give_the_same_policy(kind: str, tmp_path: Path) -> None:
    file = write(pi_weights(kind), tmp_path / "model.safetensors")
    output = tmp_path / "converted"
    report = convert_weights(open_source(file), output, shard_bytes=200_000)
    assert len(list(output.glob("model-*.safetensors"))) > 1
    assert report.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    told = json.loads((output / "report.json").read_text())
    assert told == json.loads(json.dumps(report.to_json()))
    assert TIED in told["unused"]
    first, second = make_policy(kind), make_policy(kind)
    import_weights(first, open_source(file))
    again = import_weights(second, open_source(output))
    assert again.kind == kind
    assert all(
        torch.equal(tensor, parameters(second)[name]) for name, tensor in parameters(first).items()
    )


def test_converted_weights_of_the_authors_can_be_used(tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "data/official_e0_tiny"
    source = open_source(folder / "official_e0_tiny_params.safetensors")
    with pytest.raises(WeightsError, match="no preset has"):
        convert_weights(source, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    file = write(pi_weights("pi0"), tmp_path / "model.safetensors")
    (tmp_path / "converted").mkdir()
    with pytest.raises(FileExistsError, match="choose another --output"):
        convert_weights(open_source(file), tmp_path / "converted")
    shutil.rmtree(tmp_path / "converted")
    (tmp_path / "converted.partial").mkdir()
    (tmp_path / "converted.partial" / "thesis.txt").touch()
    source = open_source(file)
    _cut(file)  # what is read later is gone
    with pytest.raises(Exception, match=r"."):
        convert_weights(source, tmp_path / "converted")
    assert {path.name for path in tmp_path.iterdir()} == {file.name, "converted.partial"}
    assert (tmp_path / "converted.partial" / "thesis.txt").exists()
