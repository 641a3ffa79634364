"""The whole way through LeRobot: weights of others, prompts of a text tokenizer, training, saving,
and inference with no network and nothing but the checkpoint."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_dataset import CAMERA, build, collate, metadata
from torch import Tensor

from e0.prompts import TextTokenizer, TextTokenizerError, pi0_prompt, pi05_prompt
from e0.weights import WeightsError
from lerobot_policy_e0 import E0Policy
from lerobot_policy_e0.modeling_e0 import CheckpointError
from made_weights import pi_weights, write_tokenizer

PRESETS = {"pi0": "paligemma_pi0_debug", "pi05": "paligemma_debug"}


@pytest.fixture(params=["pi0", "pi05"])
def kind(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("tokenizers")
    return request.param


@pytest.fixture
def source(kind: str, tmp_path: Path) -> Path:
    """A directory as `e0 import-weights` makes it, tokenizer included."""
    directory = tmp_path / "source"
    write_tokenizer(directory)
    save_file(pi_weights(kind), directory / "model.safetensors")
    return directory


def options(kind: str, source: Path, **own: Any) -> dict[str, Any]:
    return {"preset": PRESETS[kind], "init_from": str(source), "denoising_steps": 2} | own


def batch_of(root: Path, policy: E0Policy, preprocess: Any) -> dict[str, Any]:
    return preprocess(collate(root, policy.config, [0, 15]))


def test_a_policy_starts_from_the_weights_and_remembers_which(
    kind: str, source: Path, image_dataset: Path
) -> None:
    policy, *_ = build(image_dataset, **options(kind, source))
    weights = pi_weights(kind)
    words = weights["paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"]
    assert torch.equal(policy.model.network.get_parameter("language.words.weight"), words)
    told = policy.config.initialized_from
    assert told is not None and told.startswith(f"{kind} source sha256:")


def test_trained_saved_and_used_offline_without_the_source(
    kind: str,
    source: Path,
    image_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy, preprocess, postprocess = build(image_dataset, **options(kind, source))
    batch = batch_of(image_dataset, policy, preprocess)
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-3)
    policy.train()
    policy.forward(batch)[0].backward()
    optimizer.step()
    noise = torch.randn(2, policy.config.horizon, 7, 1)
    chunk = policy.predict_action_chunk(batch, noise=noise)
    directory = tmp_path / "checkpoint"
    for part in (policy, preprocess, postprocess):
        part.save_pretrained(directory)
    assert (directory / "tokenizer.json").is_file()
    shutil.rmtree(source)

    def no_network(*_: Any, **__: Any) -> None:
        raise AssertionError("inference must not need a network")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)
    again = E0Policy.from_pretrained(directory)
    assert again.config.initialized_from == policy.config.initialized_from
    torch.testing.assert_close(again.predict_action_chunk(batch, noise=noise), chunk)


def test_what_is_seen_and_told_matters(kind: str, source: Path, image_dataset: Path) -> None:
    policy, preprocess, _ = build(image_dataset, **options(kind, source, objective="flow"))
    batch = batch_of(image_dataset, policy, preprocess)
    noise = torch.randn(2, policy.config.horizon, 7, 1)
    chunk = policy.predict_action_chunk(batch, noise=noise)
    changes: list[tuple[str, Any]] = [
        (CAMERA, 1 - batch[CAMERA]),
        ("observation.state", -batch["observation.state"]),
        ("task", ["pick up the red cube"] * 2),
    ]
    for name, value in changes:
        changed = policy.predict_action_chunk(batch | {name: value}, noise=noise)
        assert not torch.equal(changed, chunk), f"{name} changes nothing"


def test_the_state_is_normalized_as_the_prompt_needs_it(
    kind: str, source: Path, image_dataset: Path
) -> None:
    policy, preprocess, _ = build(image_dataset, **options(kind, source))
    batch = batch_of(image_dataset, policy, preprocess)
    stats = metadata(image_dataset).stats["observation.state"]
    raw = collate(image_dataset, policy.config, [0, 15])["observation.state"]
    if kind == "pi05":
        low, high = (torch.as_tensor(stats[name]).float() for name in ("q01", "q99"))
        expected = 2 * (raw - low) / (high - low) - 1
    else:
        mean, std = (torch.as_tensor(stats[name]).float() for name in ("mean", "std"))
        expected = (raw - mean) / std
    torch.testing.assert_close(batch["observation.state"], expected, rtol=1e-4, atol=1e-4)


# Prompts


def test_prompts_are_those_of_lerobot() -> None:
    pytest.importorskip("transformers")
    from lerobot.lerobot_types import TransitionKey
    from lerobot.policies.pi0.processor_pi0 import Pi0NewLineProcessor
    from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep
    from lerobot.utils.constants import OBS_STATE

    tasks = ["push the cube", "pick_up the\ncube ", "already ends\n", ""]
    generator = torch.Generator().manual_seed(0)
    edges = torch.linspace(-1, 1, 257)
    for trial in range(50):
        states = 1.3 * torch.randn(len(tasks), 5, generator=generator)
        states[0] = edges[torch.randint(0, 257, (5,), generator=generator)]  # just on an edge
        step = Pi05PrepareStateTokenizerProcessorStep()
        theirs: Any = step(
            {
                TransitionKey.OBSERVATION: {OBS_STATE: states},
                TransitionKey.COMPLEMENTARY_DATA: {"task": list(tasks)},
            }  # type: ignore[arg-type]
        )
        expected = theirs[TransitionKey.COMPLEMENTARY_DATA]["task"]
        ours = [pi05_prompt(task, state) for task, state in zip(tasks, states, strict=True)]
        assert ours == expected, f"trial {trial}"
    newline = Pi0NewLineProcessor().complementary_data({"task": list(tasks)})
    assert [pi0_prompt(task) for task in tasks] == newline["task"]


@pytest.mark.parametrize("adds_start", [True, False])
def test_tokens_are_those_of_transformers(adds_start: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    file = write_tokenizer(tmp_path, adds_start=adds_start)
    ours = TextTokenizer(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(file), pad_token="<pad>", bos_token="<bos>"
    )
    prompts = ["push the cube\n", "Task: pick, State: 3 255;\nAction: "]
    encoded = theirs(prompts, padding=True, padding_side="right", return_tensors="pt")
    expected = encoded["input_ids"].masked_fill(encoded["attention_mask"] == 0, -1)
    if not adds_start:  # PaliGemma's prompts always begin with it
        expected = torch.cat((torch.full((2, 1), 2), expected), dim=1)
    assert torch.equal(ours.encode(prompts, 200), expected)


def test_a_long_prompt_is_refused_not_cut(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    text = TextTokenizer(write_tokenizer(tmp_path))
    length = text.encode(["push the cube"], 100).shape[1]
    with pytest.raises(ValueError, match=rf"has {length} tokens, 2 more than.*maximum_prompt"):
        text.encode(["push the cube"], length - 2)


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TextTokenizerError, match="is no tokenizer file"):
        TextTokenizer(tmp_path)
    with pytest.raises(TextTokenizerError, match="neither a tokenizer"):
        TextTokenizer("no such place")


def test_a_policy_without_a_tokenizer_says_what_to_do(image_dataset: Path) -> None:
    with pytest.raises(ValueError, match=r"--policy\.text_tokenizer=PATH_OR_HUB_ID"):
        build(image_dataset, preset="paligemma_debug")


def test_a_tokenizer_with_too_many_words_is_refused(
    image_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tokenizers")
    write_tokenizer(tmp_path)
    monkeypatch.setattr(TextTokenizer, "size", property(lambda self: 5000))
    with pytest.raises(ValueError, match=r"5000 entries.*embeds 1024"):
        build(image_dataset, preset="paligemma_debug", text_tokenizer=str(tmp_path))


# Cameras, and what does not fit


def test_cameras_have_an_order_and_may_be_fewer(image_dataset: Path) -> None:
    policy, *_ = build(image_dataset, cameras=[CAMERA])
    assert policy.model.settings.cameras == (CAMERA,)
    with pytest.raises(ValueError, match=r"cameras names \['wrist'\].*observation.images.front"):
        build(image_dataset, cameras=["wrist"])


def test_weights_of_another_layout_are_refused(image_dataset: Path, source: Path) -> None:
    with pytest.raises(WeightsError, match="belong into the preset"):
        build(image_dataset, preset="tiny", init_from=str(source))


def test_checkpoints_of_another_vocabulary_are_refused(image_dataset: Path, tmp_path: Path) -> None:
    policy, *_ = build(image_dataset)
    policy.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["vocabulary_size"] = 32
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"codebook is \(7, 64\), expected \(7, 32\)"):
        E0Policy.from_pretrained(tmp_path)


def test_checkpoints_with_earlier_names_still_load(image_dataset: Path, tmp_path: Path) -> None:
    policy, preprocess, _ = build(image_dataset)
    policy.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    earlier: dict[str, Tensor] = {
        name.replace("action_tokens.input.", "action_in.").replace(
            "action_tokens.output.", "action_out."
        ): tensor
        for name, tensor in load_file(file).items()
    }
    assert "model.network.action_out.weight" in earlier
    save_file(earlier, file)
    again = E0Policy.from_pretrained(tmp_path)
    batch = batch_of(image_dataset, policy, preprocess)
    noise = torch.randn(2, policy.config.horizon, 7, 1)
    torch.testing.assert_close(
        again.predict_action_chunk(batch, noise=noise),
        policy.predict_action_chunk(batch, noise=noise),
    )


# Fast sampling


@pytest.mark.parametrize("fast", [True, False])
def test_sampling_follows_the_weights(image_dataset: Path, fast: bool) -> None:
    policy, preprocess, _ = build(image_dataset, fast_sampling=fast)
    batch = batch_of(image_dataset, policy, preprocess)
    noise = torch.randn(2, policy.config.horizon, 7, 1)

    def plain() -> Tensor:
        return policy.model.sample(policy.observation(batch), noise=noise).actions

    first = policy.predict_action_chunk(batch, noise=noise)
    assert bool(policy._samplers) == fast
    torch.testing.assert_close(first, plain())
    policy.train()
    policy.forward(batch)[0].backward()
    torch.optim.SGD(policy.parameters(), lr=1.0).step()
    second = policy.predict_action_chunk(batch, noise=noise)
    torch.testing.assert_close(second, plain())
    assert not torch.equal(first, second)
    other = {
        name: tensor + 0.01 for name, tensor in policy.state_dict().items() if "network" in name
    }
    policy.load_state_dict(other, strict=False)
    third = policy.predict_action_chunk(batch, noise=noise)
    torch.testing.assert_close(third, plain())
    assert not torch.equal(third, second)
