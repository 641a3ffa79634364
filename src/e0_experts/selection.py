"""Which seeds a collection runs and which episodes it selects.

The selection follows from the seeds alone: the first N successful ones in their order, however the
work was divided or interrupted. An episode's file says by its name that its seed is known: a
success is `<task>/<seed>.npz`, a failure the small `<task>/<seed>.failed.json`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_TRIES_BEFORE_GIVING_UP = 20
LOWEST_SUCCESS_RATE = 0.5
LOWEST_AFTER_A_POLICY = 0.1  # which may have led to where nothing can be mended


@dataclass(frozen=True)
class Outcome:
    """How one seed went: success or not, after so many steps."""

    task: str
    seed: int
    success: bool
    steps: int


@dataclass(frozen=True)
class Collected:
    """The selected episodes of one task.

    Attributes:
        seeds: of the selected (successful) episodes, ascending.
        paths: their files.
        tries: how many seeds it took, the failures among them included.
    """

    task: str
    seeds: tuple[int, ...]
    paths: tuple[Path, ...]
    tries: int

    @property
    def success_rate(self) -> float:
        """Share of the tried seeds in which the expert succeeded."""
        return len(self.seeds) / self.tries


def task_directory(directory: Path, task: str) -> Path:
    """Where a task's episodes lie; `libero_goal/3` in one directory, as all others."""
    return directory / task.replace("/", "-")


def episode_path(directory: Path, task: str, seed: int) -> Path:
    return task_directory(directory, task) / f"{seed:08d}.npz"


def failure_path(directory: Path, task: str, seed: int) -> Path:
    return task_directory(directory, task) / f"{seed:08d}.failed.json"


def _seed_of(path: Path) -> int:
    return int(path.name.partition(".")[0])


class Progress:
    """What is known of one task's seeds, and which one to run next."""

    def __init__(
        self,
        name: str,
        first_seed: int,
        wanted: int,
        directory: Path,
        lowest_success_rate: float = LOWEST_SUCCESS_RATE,
    ) -> None:
        self.name = name
        self.running: set[int] = set()
        self._first_seed = first_seed
        self._lowest_success_rate = lowest_success_rate
        self.wanted = wanted
        own = task_directory(directory, name)
        self._outcomes = {
            **{_seed_of(path): True for path in own.glob("*.npz")},
            **{_seed_of(path): False for path in own.glob("*.failed.json")},
        }
        self._check_success_rate()

    def wants_seed(self) -> int | None:
        """The first seed without which N successes cannot be reached, even if all running ones
        succeed; so no episode is made in vain."""
        hoped, seed = 0, self._first_seed
        while hoped < self.wanted:
            if seed not in self.running and seed not in self._outcomes:
                return seed
            hoped += self._outcomes.get(seed, True)
            seed += 1
        return None

    def finish(self, outcome: Outcome) -> None:
        self.running.remove(outcome.seed)
        self._outcomes[outcome.seed] = outcome.success
        self._check_success_rate()

    def certain(self) -> list[int]:
        """The seeds of the first successes, as far as all seeds before them are known."""
        seeds: list[int] = []
        seed = self._first_seed
        while len(seeds) < self.wanted and seed in self._outcomes:
            if self._outcomes[seed]:
                seeds.append(seed)
            seed += 1
        return seeds

    def selection(self, directory: Path) -> Collected:
        """The first N successes. Every seed up to there must be known."""
        seeds = self.certain()
        paths = tuple(episode_path(directory, self.name, chosen) for chosen in seeds)
        return Collected(self.name, tuple(seeds), paths, tries=seeds[-1] - self._first_seed + 1)

    def _check_success_rate(self) -> None:
        tries = successes = 0
        while self._first_seed + tries in self._outcomes and successes < self.wanted:
            successes += self._outcomes[self._first_seed + tries]
            tries += 1
            if tries >= _TRIES_BEFORE_GIVING_UP and successes < self._lowest_success_rate * tries:
                raise RuntimeError(
                    f"the expert of {self.name} succeeded in only {successes} of {tries} episodes "
                    f"(seeds from {self._first_seed}); lower the noise, give it more steps, or "
                    "correct a policy that has learned more"
                )


def selected_in_order(tasks: Sequence[Progress], directory: Path) -> Iterator[Path | None]:
    """The selected episodes' files in order; None whenever the next is not certain yet."""
    for task in tasks:
        given = 0
        while given < task.wanted:
            certain = task.certain()
            for seed in certain[given:]:
                yield episode_path(directory, task.name, seed)
            given = len(certain)
            if given < task.wanted:
                yield None
