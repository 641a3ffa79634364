"""Ways to decode an E0 policy: settings of its sampling, which its weights leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml

from e0_maniskill.files import FileNameError, file_name

if TYPE_CHECKING:
    from lerobot_policy_e0 import E0Config

SETTINGS = (
    *("start", "denoising_steps", "sampler", "temperature", "read_out", "early_stop"),
    *("confidence_noise", "remask"),
)


class DecodingError(ValueError):
    """A way to decode that is none."""


@dataclass(frozen=True)
class Decoding:
    """Settings in place of a policy's own. Its name is added to the policy's label."""

    name: str
    settings: tuple[tuple[str, Any], ...]

    def label(self, policy: str) -> str:
        """What the policy is called when it is decoded so."""
        return f"{policy}-{self.name}"

    def of(self, config: E0Config) -> E0Config:
        """A policy's configuration with these settings.

        Raises DecodingError for values that the method refuses."""
        try:
            return replace(config, **dict(self.settings))
        except (TypeError, ValueError) as error:
            raise DecodingError(f"decoding {self.name!r}: {error}") from error


def read_decoding(text: str) -> Decoding:
    """NAME:SETTING=VALUE,... as a decoding; NAME: alone keeps the policy's own settings.

    Raises DecodingError for another form and for unknown settings."""
    name, colon, given = text.partition(":")
    if not colon:
        raise DecodingError(f"a decoding is NAME:SETTING=VALUE,..., got {text!r}")
    settings = {}
    for part in given.split(",") if given else []:
        setting, equals, value = part.partition("=")
        if not equals or setting in settings:
            raise DecodingError(f"decoding {name!r} has {part!r}, not SETTING=VALUE given once")
        settings[setting] = yaml.safe_load(value)
    return make_decoding(name, settings)


def make_decoding(name: str, settings: Mapping[str, Any]) -> Decoding:
    """A decoding of these settings. Raises DecodingError for unknown ones, and for a name that
    cannot be part of a label."""
    try:
        file_name(name, "the decoding's name")
    except FileNameError as error:
        raise DecodingError(str(error)) from error
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown:
        raise DecodingError(
            f"decoding {name!r} has unknown {', '.join(unknown)}; known: {', '.join(SETTINGS)}"
        )
    return Decoding(name, tuple(sorted(settings.items())))


def require_different(decodings: Sequence[Decoding]) -> None:
    """Raise DecodingError where two have one name."""
    names = [decoding.name for decoding in decodings]
    for name in names:
        if names.count(name) > 1:
            raise DecodingError(f"two decodings are called {name!r}")
