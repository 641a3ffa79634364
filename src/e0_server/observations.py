"""What a client sent, as the features of a checkpoint: checked, never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from e0_server.robots import Feature, Layout
from e0_server.served import ObservationError

SMALLEST, LARGEST = 16, 4096  # pixels of a picture's side


class Reader:
    """Reads observations of one robot for one checkpoint.

    any_size: the policy brings pictures to its own size, so that they may come in any one of the
    shape (height to width) that it was trained on.
    """

    def __init__(self, inputs: Mapping[str, Feature], layout: Layout, any_size: bool) -> None:
        self._inputs, self._sources, self._any_size = inputs, layout.sources, any_size
        self._keys = {key for parts in layout.sources.values() for key, _ in parts}
        self.expected = {
            key: self._expected(self._inputs[name], size)
            for name, parts in layout.sources.items()
            for key, size in parts
        }
        """Every key with what is expected of it, in words."""

    def read(self, observation: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The features, pictures uint8 (H, W, 3) and vectors float32, and what else was sent.

        Raises ObservationError naming the key, what came and what was expected.
        """
        flat = _flatten(observation)
        features = {}
        for name, parts in self._sources.items():
            if self._inputs[name].is_picture:
                key = parts[0][0]
                features[name] = self._picture(key, self._taken(flat, key), self._inputs[name])
            else:
                numbers = [self._vector(key, self._taken(flat, key), size) for key, size in parts]
                features[name] = np.concatenate(numbers)
        return features, {key: value for key, value in flat.items() if key not in self._keys}

    def _taken(self, flat: Mapping[str, Any], key: str) -> Any:
        if key not in flat:
            came = ", ".join(sorted(flat))[:300] or "nothing"
            raise ObservationError(
                f"{key}: it is missing, expected {self.expected[key]}; {came} came"
            )
        return flat[key]

    def _vector(self, key: str, value: Any, size: int) -> np.ndarray:
        try:
            vector = np.atleast_1d(np.asarray(value))
        except ValueError as error:  # lists of different lengths
            raise self._wrong(key, str(error)) from error
        if vector.dtype.kind not in "biuf" or vector.shape != (size,):
            raise self._wrong(key, _told(value))
        with np.errstate(over="ignore"):  # becomes infinite, and is refused
            vector = vector.astype(np.float32)
        if not np.isfinite(vector).all():
            raise self._wrong(key, f"{vector.tolist()}"[:200])
        return vector

    def _picture(self, key: str, value: Any, feature: Feature) -> np.ndarray:
        if not isinstance(value, np.ndarray) or value.ndim != 3:
            raise self._wrong(key, _told(value))
        picture = value.transpose(1, 2, 0) if value.shape[0] == 3 else value
        if picture.dtype.kind == "f":
            if not (np.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1):
                raise self._wrong(key, f"{_told(value)} with values beyond [0, 1]")
            picture = np.rint(picture * 255).astype(np.uint8)
        height, width, channels = picture.shape
        if picture.dtype != np.uint8 or channels != 3 or not self._fits(height, width, feature):
            raise self._wrong(key, _told(value))
        return np.ascontiguousarray(picture)

    def _fits(self, height: int, width: int, feature: Feature) -> bool:
        _, trained_height, trained_width = feature.shape
        if not self._any_size:
            return (height, width) == (trained_height, trained_width)
        off = abs(height * trained_width - width * trained_height)
        same_shape = off <= max(trained_height, trained_width)  # one pixel, by rounding
        return same_shape and min(height, width) >= SMALLEST and max(height, width) <= LARGEST

    def _expected(self, feature: Feature, size: int) -> str:
        if not feature.is_picture:
            return f"{size} finite numbers"
        _, height, width = feature.shape
        scaled = f" or another size of this shape from {SMALLEST} to {LARGEST} px"
        return (
            f"a picture ({height}, {width}, 3){scaled if self._any_size else ''}, RGB, uint8 or "
            "floats in [0, 1]; the channels may come first"
        )

    def _wrong(self, key: str, came: str) -> ObservationError:
        return ObservationError(f"{key}: expected {self.expected[key]}; {came} came")


def _flatten(observation: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Nested maps as one, their keys joined by "/"."""
    flat: dict[str, Any] = {}
    for key, value in observation.items():
        inner = _flatten(value, f"{place}{key}/") if isinstance(value, Mapping) else None
        for name, part in ({f"{place}{key}": value} if inner is None else inner).items():
            if name in flat:
                raise ObservationError(f"{name[:100]}: it came twice, nested and by its whole name")
            flat[name] = part
    return flat


def _told(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"{type(value).__name__} {str(value)[:100]!r}"
