"""Episodes of a benchmark: which to run, how one went, and the log that keeps them."""

from __future__ import annotations

import fcntl
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

INPUT_CONTROLS = ("blackout", "instruction")


class EpisodeLogError(ValueError):
    """A log of episodes that is damaged, belongs to something else, or is in use."""


@dataclass(frozen=True)
class EpisodeJob:
    """One episode to run.

    policy: its label. control: "none", "blackout" (the policy gets black images), "instruction"
    (it is told another instruction than the right one), or options of the environment that differ,
    as in "camera_shift=15,0,1,0"; everything else is as usual.
    """

    policy: str
    task: str
    seed: int
    control: str = "none"


def changed_options(control: str) -> tuple[str, ...]:
    """The options of the environment that a control changes, separated by blanks in its name."""
    return () if control in ("none", *INPUT_CONTROLS) else tuple(control.split())


@dataclass(frozen=True)
class EpisodeResult:
    """How an episode went.

    instruction: what the policy was told. total_reward: the return. entropy: mean posterior entropy
    of each chunk in nats, in order; empty for a policy without one. chunks: how many were made.
    latency_ms: mean time to make one. clipped_steps: steps whose action was brought into the
    environment's bounds (see `e0_bench.closed_loop.environments`).
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

    @property
    def job(self) -> EpisodeJob:
        return EpisodeJob(self.policy, self.task, self.seed, self.control)

    def to_json(self) -> str:
        """One line; `total_reward` is called "return" there."""
        data = asdict(self)
        return json.dumps({("return" if key == "total_reward" else key): data[key] for key in data})

    @classmethod
    def from_json(cls, line: str) -> EpisodeResult:
        """Raises ValueError for anything but a line of `to_json`."""
        data = json.loads(line)
        if not isinstance(data, dict):
            raise ValueError(f"not an object but {type(data).__name__}")
        missing = _FIELDS.keys() - data.keys()
        unknown = data.keys() - _FIELDS.keys()
        if missing or unknown:
            raise ValueError(f"missing {sorted(missing)}, unknown {sorted(unknown)}")
        for name, kind in _FIELDS.items():
            if not _is(data[name], kind):
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


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


class EpisodeLog:
    """JSON lines, one for each finished episode, written as it finishes.

    While it is open, the file is locked. A last line that a kill cut short is left out, and the
    next result takes its place, so its episode runs again.

        with EpisodeLog(path) as log:
            log.results        # job -> result
            log.append(result)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[EpisodeJob, EpisodeResult] = {}

    def __enter__(self) -> EpisodeLog:
        """Raises EpisodeLogError if the file is in use, or holds anything but episodes."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self.path.open("a+b")
        try:
            self._lock()
            self._file.seek(0)
            content = self._file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self.results = self._parse(whole)
            self._length = len(whole)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, result: EpisodeResult) -> None:
        """Keep a result: in the file before this returns."""
        line = result.to_json().encode() + b"\n"
        self._file.truncate(self._length)
        self._file.write(line)
        self._file.flush()
        self._length += len(line)
        self.results[result.job] = result

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EpisodeLogError(
                f"another process is writing {self.path}; wait for it or end it"
            ) from error

    def _parse(self, content: bytes) -> dict[EpisodeJob, EpisodeResult]:
        results: dict[EpisodeJob, EpisodeResult] = {}
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
            try:
                result = EpisodeResult.from_json(line)
            except ValueError as error:
                raise EpisodeLogError(
                    f"{self.path} holds a line that is not an episode's result (line {number}: "
                    f"{error}); move the file away to run its episodes anew"
                ) from error
            if result.job in results:
                raise EpisodeLogError(
                    f"{self.path} holds an episode twice (line {number}: {result.job}); remove one "
                    "of the lines"
                )
            results[result.job] = result
        return results
