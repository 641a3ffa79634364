"""Episodes of a benchmark: which to run, how one went, and the log that keeps them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e0_bench.closed_loop.delay_options import is_option
from e0_system.files import append_line, beside, write_bytes

INPUT_CONTROLS = ("blackout", "instruction")


class EpisodeLogError(ValueError):
    """A file that is no log of episodes."""


@dataclass(frozen=True)
class EpisodeJob:
    """One episode to run.

    policy: its label. control: "none", or what differs, separated by blanks: "blackout" (the policy
    does not see, see `runner`), "instruction" (it is told another instruction than the right one),
    options of the environment, as in "camera_shift=15,0,1,0", and of a delay with which chunks
    come, as in "delay=2"; everything else is as usual.
    """

    policy: str
    task: str
    seed: int
    control: str = "none"

    @property
    def blackout(self) -> bool:
        return changes_input([self.control], "blackout")

    @property
    def wrong_instruction(self) -> bool:
        return changes_input([self.control], "instruction")


def changes_input(controls: Iterable[str], how: str) -> bool:
    """Whether any of the controls changes a policy's input so: one of INPUT_CONTROLS."""
    return any(how in control.split() for control in controls)


def changed_options(control: str) -> tuple[str, ...]:
    """The options of the environment that a control changes."""
    others = ("none", *INPUT_CONTROLS)
    return tuple(part for part in control.split() if part not in others and not is_option(part))


@dataclass(frozen=True)
class EpisodeResult:
    """How an episode went.

    instruction: what the policy was told. total_reward: the return. entropy: mean posterior entropy
    of each chunk in nats, in order; empty for a policy without one. chunks: how many were made.
    latency_ms: mean time to make one. clipped_steps: steps whose action was brought into the
    environment's bounds (see `e0_bench.closed_loop.environments`). evaluations: of the network,
    mean per chunk, for policies that count them. ambiguity: of each chunk, in order, where the
    policy's decoding looks at it (see `e0.ambiguity`). For tasks that can be done in several ways,
    way: the last one that was being gone, None if there was none; changes_of_mind: how often it
    changed; between: whether the tool was ever where it is on none of them. smoothness: of what was
    executed from chunks that came late, see `delays.LateChunks`. variant: of the task, as its suite
    calls it, where episodes are variants of one (`e0_libero.camera_suite`). The scores are
    VLABench's, in [0, 1] (`clients/vlabench`): intention_score, whether the gripper went to the
    right things; progress_score, how far the task got by the paper; released_progress_score, by its
    code. stages: those of the task that were reached, in their order, where it has any.
    """

    policy: str
    task: str
    seed: int
    control: str
    success: bool
    steps: int
    total_reward: float
    entropy: list[float]
    chunks: int
    latency_ms: float
    instruction: str
    clipped_steps: int = 0
    evaluations: float | None = None
    ambiguity: list[float] | None = None
    way: int | None = None
    changes_of_mind: int | None = None
    between: bool | None = None
    smoothness: dict[str, float] | None = None
    intention_score: float | None = None
    progress_score: float | None = None
    released_progress_score: float | None = None
    variant: str | None = None
    stages: list[str] | None = None

    @property
    def job(self) -> EpisodeJob:
        return EpisodeJob(self.policy, self.task, self.seed, self.control)

    def to_json(self) -> str:
        """One line; `total_reward` is called "return" there, and what is None is left out."""
        data = {key: value for key, value in asdict(self).items() if value is not None}
        return json.dumps({("return" if key == "total_reward" else key): data[key] for key in data})

    @classmethod
    def from_json(cls, line: str) -> EpisodeResult:
        """Raises ValueError for anything but a line of `to_json`."""
        data = json.loads(line)
        if not isinstance(data, dict):
            raise ValueError(f"not an object but {type(data).__name__}")
        missing = _FIELDS.keys() - data.keys()
        unknown = data.keys() - _FIELDS.keys() - _OPTIONAL_FIELDS.keys()
        if missing or unknown:
            raise ValueError(f"missing {sorted(missing)}, unknown {sorted(unknown)}")
        for name, kind in (_FIELDS | _OPTIONAL_FIELDS).items():
            if name in data and not _is(data[name], kind):
                raise ValueError(f"{name} is {data[name]!r}, not {kind.__name__}")
        return cls(total_reward=data.pop("return"), **data)


_FIELDS: dict[str, type] = {
    "policy": str,
    "task": str,
    "seed": int,
    "control": str,
    "success": bool,
    "steps": int,
    "return": float,
    "entropy": list,
    "chunks": int,
    "latency_ms": float,
    "instruction": str,
    "clipped_steps": int,
}
_OPTIONAL_FIELDS: dict[str, type] = {
    "evaluations": float,
    "ambiguity": list,
    "way": int,
    "changes_of_mind": int,
    "between": bool,
    "smoothness": dict,
    "intention_score": float,
    "progress_score": float,
    "released_progress_score": float,
    "variant": str,
    "stages": list,
}


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


class EpisodeLog:
    """JSON lines, one for each finished episode, written as it finishes.

    One process at a time may have it, which its directory's owner sees to. A last line that a kill
    cut short is left out, and the next result takes its place, so its episode runs again. So do the
    episodes of other lines that are damaged, or that tell of an episode once more: with the next
    result these lines go into a file beside, `NAME.bad`.

        log = EpisodeLog(path)
        log.results        # job -> result
        log.append(result)
    """

    def __init__(self, path: Path) -> None:
        """Raises EpisodeLogError if the file holds lines and none of them is an episode's."""
        self.path = path
        self.results: dict[EpisodeJob, EpisodeResult] = {}
        self._good: list[bytes] = []
        self._bad: list[bytes] = []
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        complaints = [
            f"line {number}: {complaint}"
            for number, line in enumerate(whole.splitlines(keepends=True), 1)
            if (complaint := self._take(line))
        ]
        if complaints and not self._good:
            raise EpisodeLogError(f"{path} is no log of episodes ({complaints[0]}); move it away")
        if complaints:
            logging.warning(
                "%s has lines that cannot be used (%s); these episodes run again, and the lines "
                "are then kept in %s",
                *(path, "; ".join(complaints), self._aside),
            )
        self._mended = len(whole) == len(content) and not self._bad

    def append(self, result: EpisodeResult) -> None:
        """Keep a result: on the disk before this returns."""
        if not self._mended:
            if self._bad:
                earlier = self._aside.read_bytes() if self._aside.exists() else b""
                write_bytes(self._aside, earlier + b"".join(self._bad))
            write_bytes(self.path, b"".join(self._good))
            self._mended = True
        append_line(self.path, result.to_json())
        self.results[result.job] = result

    @property
    def _aside(self) -> Path:
        return beside(self.path, ".bad")

    def _take(self, line: bytes) -> str | None:
        """Take in a line; what is wrong with it if it is a bad one."""
        try:
            result = EpisodeResult.from_json(line.decode())
        except ValueError as error:
            self._bad.append(line)
            return str(error)
        if result.job in self.results:
            self._bad.append(line)
            return f"{result.job} once more"
        self._good.append(line)
        self.results[result.job] = result
        return None
