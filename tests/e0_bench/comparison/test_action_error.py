"""The error on held-out demonstrations is measured once for the same weights."""

from pathlib import Path

import pytest

from e0_bench.comparison import action_error


def test_an_error_is_kept_for_as_long_as_the_weights_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(checkpoint: Path, dataset: Path, description: str = "") -> dict[str, float]:
        measured.append(checkpoint)
        return {"error": len(measured), "codes": 0.0, "frames": 3}

    monkeypatch.setattr(action_error, "action_error", measure)
    weights, kept = tmp_path / "model.safetensors", tmp_path / "errors" / "a.json"
    for content, error in ((b"first", 1), (b"first", 1), (b"second", 2), (b"second", 2)):
        weights.write_bytes(content)
        found = action_error.kept_action_error(tmp_path, tmp_path / "data", kept)
        assert found == {"error": error, "codes": 0.0, "frames": 3}
    assert len(measured) == 2
