"""What the doctor finds, and how it is put into words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import SupportsFloat

ERROR, WARNING, NOTE = LEVELS = ("error", "warning", "note")
SHOWN = 6  # names or episodes before "and so many more"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing.

    level: error (training fails or learns nonsense), warning (it learns worse), note.
    check: what was looked at, in two or three words. feature: where it was found.
    told: what was found, with numbers. why: why it matters. remedy: the flag or the action that
    helps. dimensions and episodes: the names and indices that it is about, where there are any.
    """

    level: str
    check: str
    feature: str
    told: str
    why: str
    remedy: str
    dimensions: tuple[str, ...] = ()
    episodes: tuple[int, ...] = ()

    @property
    def place(self) -> str:
        """The feature, with the dimensions that it is about: action[x, y]."""
        return f"{self.feature}[{listed(self.dimensions)}]" if self.dimensions else self.feature


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, notes last, otherwise as they came."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def listed(items: Sequence[object]) -> str:
    """The first few items, and how many more there are."""
    shown = ", ".join(map(str, items[:SHOWN]))
    return shown if len(items) <= SHOWN else f"{shown} and {len(items) - SHOWN} more"


def counted(number: int, noun: str) -> str:
    """1 frame, 2 frames, 1,000 frames."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_episodes(episodes: Sequence[int]) -> str:
    """episode 3, or episodes 3, 5, 8."""
    return f"episode{'' if len(episodes) == 1 else 's'} {listed(episodes)}"


def left_out(episodes: Sequence[int], total: int) -> str:
    """The flag that trains on all episodes but these."""
    kept = [episode for episode in range(total) if episode not in set(episodes)]
    if not kept:
        return "no episode is free of it"
    shown = ",".join(map(str, kept[:12])) + (",..." if len(kept) > 12 else "")
    return f"leave {in_episodes(episodes)} out: --dataset.episodes=[{shown}]"


def number(value: SupportsFloat) -> str:
    """Three significant digits."""
    return f"{float(value) + 0.0:.3g}"  # no negative zero


def share(value: SupportsFloat) -> str:
    """A share as a percentage, never rounded to nothing."""
    part = float(value)
    return f"{100 * part:.2g} %" if 0 < part < 0.1 else f"{100 * part:.0f} %"
