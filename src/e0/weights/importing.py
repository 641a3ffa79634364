"""Put the weights of a source into a policy, and account for every tensor."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from e0.policy import Policy
from e0.weights.entries import Entries, Entry, WeightsError, concatenate
from e0.weights.plan import TIED_WORDS, WORDS, Assignment, fresh_reason, plan, unused_reason
from e0.weights.sources import Source

LAYOUTS = {"pi0": "mixed", "pi05": "adaptive", "e0-authors": "adaptive"}
SHOWN = 40


@dataclass(frozen=True)
class ImportReport:
    """What became of every tensor.

    used: parameter of the policy -> the tensors it was made of. unused: tensor -> the reason.
    fresh: parameter that keeps its random start -> the reason.
    """

    source: str
    kind: str
    sha256: str
    used: dict[str, list[str]]
    unused: dict[str, str]
    fresh: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self) -> str:
        """A few lines for a person: counts, and each reason once."""
        lines = [
            f"{self.kind} weights from {self.source} (sha256 {self.sha256[:12]}): "
            f"{sum(map(len, self.used.values()))} tensors make {len(self.used)} parameters"
        ]
        for title, what in (("unused", self.unused), ("fresh", self.fresh)):
            for reason in dict.fromkeys(what.values()):
                names = [name for name, given in what.items() if given == reason]
                lines.append(f"  {title}: {len(names)} ({names[0]}, ...): {reason}")
        return "\n".join(lines)


@torch.no_grad()
def import_weights(policy: Policy, source: Source) -> ImportReport:
    """Copy the source's tensors into the policy's network. Nothing is changed if anything is wrong.

    Raises WeightsError as `match_weights` does.
    """
    ready, report = match_weights(policy, source)
    parameters = dict(policy.network.named_parameters())
    for target, entry in ready.items():
        parameters[target].copy_(entry.load())
    return report


def match_weights(policy: Policy, source: Source) -> tuple[dict[str, Entry], ImportReport]:
    """What each parameter of the policy would become, by its name, and the account of all tensors.
    No numbers are read but for the hash, so the policy may be on the meta device.

    Raises WeightsError if the policy's preset has another layout, and listing every tensor that is
    missing, of another shape or left over without a reason, and every parameter that would keep
    random weights without one.
    """
    _require_layout(policy, source)
    entries = _with_words(source.entries)
    parameters = dict(policy.network.named_parameters())
    problems: list[str] = []
    ready: dict[str, Entry] = {}
    used: dict[str, list[str]] = {}
    for assignment in plan(policy, source.kind):
        entry = _collect(assignment, entries, parameters[assignment.target], problems)
        if entry is not None:
            ready[assignment.target] = entry
        used[assignment.target] = [
            name if name in source.entries else TIED_WORDS for name in assignment.sources
        ]
    taken = {name for names in used.values() for name in names}
    unused = {
        name: unused_reason(name, policy, source.kind)
        for name in source.entries
        if name not in taken
    }
    fresh = {
        name: fresh_reason(name, policy, source.kind) for name in parameters if name not in used
    }
    problems += [
        f"nothing uses {name} {source.entries[name].shape}"
        for name, reason in unused.items()
        if reason is None
    ]
    problems += [f"nothing gives {name}" for name, reason in fresh.items() if reason is None]
    if problems:
        raise WeightsError(_told(problems, policy, source))
    return ready, ImportReport(
        source=source.path.name,
        kind=source.kind,
        sha256=source.sha256(),
        used=used,
        unused={name: str(reason) for name, reason in unused.items()},
        fresh={name: str(reason) for name, reason in fresh.items()},
    )


def _told(problems: list[str], policy: Policy, source: Source) -> str:
    shown = "\n  ".join(problems[:SHOWN])
    rest = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    preset = policy.network.preset
    return (
        f"{source.path} ({source.kind}) does not fit this policy (preset with {preset.depth} "
        f"layers of width {preset.prefix.width}), {len(problems)} differences:\n  {shown}{rest}"
    )


def _require_layout(policy: Policy, source: Source) -> None:
    preset = policy.network.preset
    wanted = LAYOUTS.get(source.kind, preset.time)
    if preset.identities or wanted != preset.time:
        fitting = {"mixed": "paligemma_pi0", "adaptive": "paligemma"}[wanted]
        raise WeightsError(
            f"{source.path} holds {source.kind} weights; they belong into the preset {fitting}, "
            f"and this policy has {policy.settings.preset!r}"
        )


def _with_words(entries: Entries) -> Entries:
    """A file may hold only one of two tied tensors; the embedding is the one that is used."""
    if WORDS in entries or TIED_WORDS not in entries:
        return entries
    return {**entries, WORDS: entries[TIED_WORDS]}


def _collect(
    assignment: Assignment, entries: Entries, parameter: Tensor, problems: list[str]
) -> Entry | None:
    """The tensor for a parameter; what is wrong with it goes to `problems`."""
    missing = [name for name in assignment.sources if name not in entries]
    if missing:
        problems += [f"missing {name}, for {assignment.target}" for name in missing]
        return None
    try:
        entry = concatenate([entries[name] for name in assignment.sources])
    except WeightsError as error:
        problems.append(f"{' + '.join(assignment.sources)}: {error}")
        return None
    expected = tuple(parameter.shape)
    cut = _cut(entry, assignment, expected)
    if cut.shape != expected:
        more = f" or more {assignment.cut}" if assignment.cut else ""
        problems.append(
            f"{' + '.join(assignment.sources)} {entry.shape}, expected {expected}{more}"
        )
        return None
    return cut


def _cut(entry: Entry, assignment: Assignment, shape: tuple[int, ...]) -> Entry:
    """The first rows or columns, where the source may have more of them."""
    axis = {"rows": 0, "columns": 1, None: None}[assignment.cut]
    if axis is None or len(entry.shape) != len(shape) or entry.shape[axis] <= shape[axis]:
        return entry
    return entry.apply(lambda tensor: tensor.narrow(axis, 0, shape[axis]))
