"""The model that E0's authors released, against the numbers that their own JAX code gave.

The folder of numbers is that of `E0_GOLDEN_DIR`, or `tests/data/official_e0_tiny`; all sizes come
from its configuration. float32; tolerance 1e-4 of the largest number of what is compared.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from e0.network.language import NO_WORD
from e0.network.policy_network import EncodedObservation, Observation, time_features
from e0.network.presets import Preset, paligemma
from e0.network.siglip import SiglipShape
from e0.network.transformer import BlockShape
from e0.policy import Policy, PolicySettings
from e0.weights import ImportReport, WeightsError, import_weights, open_source

FOLDER = Path(os.environ.get("E0_GOLDEN_DIR", Path(__file__).parents[1] / "data/official_e0_tiny"))
TOLERANCE = 1e-4


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 1e-3, "nothing to compare"
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


class Golden:
    """The authors' configuration, parameters, inputs and outputs."""

    @cached_property
    def config(self) -> dict:
        return json.loads(next(FOLDER.glob("*_config.json")).read_text())

    @cached_property
    def numbers(self) -> dict[str, Tensor]:
        with np.load(next(FOLDER.glob("*_sample.npz"))) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}

    @cached_property
    def parameters(self) -> Path:
        return next(FOLDER.glob("*_params.safetensors"))

    @cached_property
    def preset(self) -> Preset:
        vision, gemma = self.config["vision"], self.config["gemma"]
        block = BlockShape(
            width=gemma["width"],
            hidden=gemma["mlp_dim"],
            heads=gemma["num_heads"],
            key_value_heads=gemma["num_kv_heads"],
            head_width=gemma["head_dim"],
        )
        return paligemma(
            "pi05",
            vision=SiglipShape(
                width=vision["width"],
                depth=vision["depth"],
                hidden=vision["mlp"],
                heads=vision["heads"],
                patch=vision["patch"],
            ),
            prefix=block,
            suffix=block,
            depth=gemma["depth"],
            vocabulary=self.config["vocabulary"],
        )

    @cached_property
    def cameras(self) -> tuple[str, ...]:
        """In the order of the prefix, which is that of the file."""
        start = "in_image_mask_"
        return tuple(name.removeprefix(start) for name in self.numbers if name.startswith(start))

    def policy(self, **changes: object) -> Policy:
        own = {
            "objective": "hybrid",
            "token_grain": "dimension",
            "head": "linear",
            "vocabulary_size": self.config["bins"],
        }
        settings = PolicySettings(
            cameras=self.cameras,
            vectors={},
            action_dim=self.config["action_dim"],
            horizon=self.config["action_horizon"],
            preset=self.preset,
            **(own | changes),  # type: ignore[arg-type]
        )
        policy = Policy(settings).eval()
        bins = torch.linspace(-1, 1, self.config["bins"])
        policy.tokenizer.fit(bins[:, None].expand(-1, self.config["action_dim"]), "uniform")
        return policy

    @cached_property
    def imported(self) -> tuple[Policy, ImportReport]:
        policy = self.policy()
        return policy, import_weights(policy, open_source(self.parameters))

    @property
    def network(self):
        return self.imported[0].network

    @cached_property
    def observation(self) -> Observation:
        numbers = self.numbers
        words = numbers["in_prompt_tokens"].long()
        return Observation(
            images={
                name: numbers[f"in_image_{name}"].permute(0, 3, 1, 2).float() / 255
                for name in self.cameras
            },
            vectors={},
            instruction=words.masked_fill(~numbers["in_prompt_mask"], NO_WORD),
            present={name: numbers[f"in_image_mask_{name}"] for name in self.cameras},
        )

    @cached_property
    def noisy(self) -> Tensor:
        """(B, H, D, 1 + V): noisy actions, and noisy one-hot codes."""
        flow = self.numbers["in_x_t"]
        codes = self.numbers["in_onehot_x_t"].view(*flow.shape, -1)
        return torch.cat((flow[..., None], codes), dim=-1)

    @cached_property
    def prefix(self) -> EncodedObservation:
        with torch.no_grad():
            return self.network.encode_prefix(self.observation)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden()


@torch.no_grad()
def test_official_prefix_tokens(golden: Golden) -> None:
    tokens, mask = golden.network._embed(golden.observation)
    assert torch.equal(mask, golden.numbers["out_prefix_mask"])
    assert_close(tokens[mask], golden.numbers["out_prefix_tokens"][mask])


@torch.no_grad()
def test_official_suffix_tokens_and_time(golden: Golden) -> None:
    network = golden.network
    tokens = network.action_tokens.embed(golden.noisy)
    assert_close(tokens, golden.numbers["out_suffix_tokens"])
    features = time_features(golden.numbers["in_time"], golden.preset.time_width)
    assert_close(network.time(features), golden.numbers["out_time_embedding"])


@torch.no_grad()
def test_official_suffix_output(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    tokens = golden.network.action_tokens
    read_out = tokens.read_out
    monkeypatch.setattr(tokens, "read_out", lambda x, c: (seen.append(x), read_out(x, c))[1])
    golden.network.denoise(golden.prefix, golden.noisy, golden.numbers["in_time"])
    assert_close(seen[0], golden.numbers["out_suffix_out"])


@torch.no_grad()
def test_official_velocity_and_logits(golden: Golden) -> None:
    outputs = golden.network.denoise(golden.prefix, golden.noisy, golden.numbers["in_time"])
    assert_close(outputs[..., 0], golden.numbers["out_velocity"])
    assert_close(outputs[..., 1:].flatten(1, 2), golden.numbers["out_logits"])


@torch.no_grad()
def test_official_noise_follows_our_path(golden: Golden) -> None:
    from e0.objectives.flow import interpolate

    numbers = golden.numbers
    noisy = interpolate(numbers["in_actions"], numbers["in_noise"], numbers["in_time"])
    assert_close(noisy, numbers["in_x_t"])


def test_official_parameters_are_all_accounted_for(golden: Golden) -> None:
    policy, report = golden.imported
    assert report.kind == "e0-authors"
    assert report.fresh == {}, "the released model has all that ours has"
    assert set(report.used) == {name for name, _ in policy.network.named_parameters()}
    assert all("time_mlp" in n or "state_proj" in n or "language_model" in n for n in report.unused)
    assert len(report.sha256) == 64


def test_official_parameters_start_a_policy_of_codes_alone(golden: Golden) -> None:
    policy = golden.policy(objective="e0", embedding="one_hot")
    report = import_weights(policy, open_source(golden.parameters))
    assert report.fresh == {}
    assert "e0_action_in_proj.weight" in report.used["action_tokens.input.weight"]
    assert "action_in_proj.weight" in report.unused


def test_official_parameters_of_another_vocabulary_are_refused(golden: Golden) -> None:
    bins = golden.config["bins"]
    policy = golden.policy(vocabulary_size=bins * 2)
    with pytest.raises(WeightsError, match=f"e0_action_in_proj.*{bins}.*expected.*{bins * 2}"):
        import_weights(policy, open_source(golden.parameters))


@torch.no_grad()
def test_official_model_samples_chunks(golden: Golden) -> None:
    policy, _ = golden.imported
    chunk = policy.sample(golden.observation, steps=3, generator=torch.Generator().manual_seed(0))
    assert chunk.actions.shape == golden.numbers["in_actions"].shape
    assert chunk.actions.isfinite().all()
