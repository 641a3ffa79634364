"""Ways to decode an E0 policy: settings of its sampling, which its weights leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from e0_system.files import FileNameError, file_name

if TYPE_CHECKING:
    from e0.policy import PolicySettings
    from lerobot_policy_e0 import E0Config

DIFFUSION = (
    *("start", "denoising_steps", "time_grid", "sampler", "temperature", "cooling", "read_out"),
    *("early_stop", "decoding", "decoding_draws"),
)
OF_OBJECTIVE: dict[str, tuple[str, ...]] = {
    "e0": DIFFUSION,
    "flow": ("start", "denoising_steps"),
    "hybrid": ("denoising_steps",),
    "masked": ("denoising_steps", "temperature", "confidence_noise", "remask"),
    "dfm": ("denoising_steps", "temperature", "read_out"),
    "autoregressive": ("temperature",),
    "regression": (),
    "mip": (),
}
"""What each objective's sampling looks at."""
IDLE_UNDER = {"fixed": "decoding_draws", "adaptive": "start"}
"""What E0's decoding of this kind leaves out of account all the same."""
SETTINGS = tuple(dict.fromkeys(name for names in OF_OBJECTIVE.values() for name in names))


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

    def of[C: (E0Config, PolicySettings)](self, config: C) -> C:
        """A policy's configuration with these settings.

        Raises DecodingError for values that the method refuses, and for settings that the policy's
        objective would not look at: the result would be that of another decoding by this name."""
        useful, means = OF_OBJECTIVE[config.objective], f"objective={config.objective}"
        self._require_looked_at(useful, means)
        try:
            decoded = replace(config, **dict(self.settings))
        except (TypeError, ValueError) as error:
            raise DecodingError(f"decoding {self.name!r}: {error}") from error
        idle = IDLE_UNDER.get(decoded.decoding)
        self._require_looked_at(
            [name for name in useful if name != idle], f"decoding={decoded.decoding}"
        )
        return decoded

    def _require_looked_at(self, useful: Sequence[str], means: str) -> None:
        if idle := [name for name, _ in self.settings if name not in useful]:
            raise DecodingError(
                f"decoding {self.name!r} sets {', '.join(idle)}, which {means} does not look at; "
                f"it takes {', '.join(useful) or 'nothing'}"
            )


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
        settings[setting] = value
    return make_decoding(name, {n: _read_value(n, value) for n, value in settings.items()})


def _read_value(setting: str, value: str) -> Any:
    from e0.policy import PolicySettings

    kind = type(getattr(PolicySettings, setting, ""))
    try:
        if kind is bool:
            return {"true": True, "false": False}[value]
        return kind(value)
    except (KeyError, ValueError) as error:
        raise DecodingError(f"{setting} must be {kind.__name__}, got {value!r}") from error


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
