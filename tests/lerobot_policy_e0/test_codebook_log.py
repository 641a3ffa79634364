"""What the log says about the codebooks of a new policy."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_dataset import build, metadata

from e0.tokens import ActionTokenizer
from lerobot_policy_e0 import E0Policy
from lerobot_policy_e0.codebook_log import dimension_names, log_codebooks


def test_a_new_policy_says_how_fine_its_codes_are(
    vector_dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        policy = build(vector_dataset, vocabulary_size=256, codebook="uniform")[0]
    lines = [r.getMessage() for r in caplog.records if "codebook of action" in r.getMessage()]
    assert len(lines) == 7
    assert lines[0].startswith("codebook of action 0: 256 codes (uniform) from -")
    assert "2 codes (levels) from -1 to 1, rms error 0, largest gap 2" in lines[6]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        E0Policy(policy.config, dataset_stats=metadata(vector_dataset).stats)
    assert "codebook of action" not in caplog.text, "none is coarse"


def test_coarse_codes_are_warned_of(vector_dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build(vector_dataset, vocabulary_size=32, codebook="uniform")
    coarse = [r.getMessage() for r in caplog.records if "codebook of action" in r.getMessage()]
    assert len(coarse) == 6, "all but the gripper"
    assert "of the range, are rounded" in coarse[0]
    assert "raise --policy.vocabulary_size (now 32)" in coarse[0]


def test_outliers_are_named(caplog: pytest.LogCaptureFixture) -> None:
    actions = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    actions[70, 1] = 300.0
    meta = SimpleNamespace(features={"action": {"names": ["shoulder", "elbow"]}})
    with caplog.at_level(logging.WARNING):
        log_codebooks(ActionTokenizer(2).fit(actions), meta)
    (warning,) = [text for text in caplog.messages if "holds outliers" in text]
    assert warning.startswith("action elbow holds outliers, values beyond -")
    assert "to 300)" in warning


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x", "y", "z"], ["x", "y", "z"]),
        ({"motors": ["shoulder", "elbow"], "gripper": ["jaw"]}, ["shoulder", "elbow", "jaw"]),
        ({"x": 0, "y": 1, "z": 2}, ["x", "y", "z"]),
        (["one too few", "y"], ["0", "1", "2"]),
        (None, ["0", "1", "2"]),
    ],
)
def test_dimensions_have_the_datasets_names(names: object, expected: list[str]) -> None:
    meta = SimpleNamespace(features={"action": {"shape": (3,), "names": names}})
    assert dimension_names(meta, 3) == expected


def test_dimensions_of_statistics_have_numbers() -> None:
    assert dimension_names(None, 2) == ["0", "1"]
