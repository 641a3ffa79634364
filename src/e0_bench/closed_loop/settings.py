"""What a benchmark is asked to measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from e0_bench.closed_loop.decodings import DecodingError, read_decoding, require_different
from e0_bench.closed_loop.delays import Delay, is_option
from e0_bench.closed_loop.environments import EnvironmentSettings
from e0_bench.closed_loop.episodes import INPUT_CONTROLS
from e0_bench.closed_loop.parallel import EPISODE_SECONDS
from e0_system.workers import Processes


class BenchmarkSettingsError(ValueError):
    """Settings that cannot be run."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """What to measure. The summary covers what is asked for here; episodes that the output
    directory holds already are not run again, so a benchmark is extended by asking for more."""

    checkpoints: tuple[Path, ...]
    """Checkpoint directories (.../pretrained_model) or hub ids of any LeRobot policies, whole ones
    and adapters."""
    tasks: tuple[str, ...]
    """Tasks of the environment; a suite such as libero_10 stands for all tasks in it."""
    out: Path
    """Directory of the results."""
    episodes: int = 50
    """Episodes of each policy on each task."""
    seed: int = 900_000
    """Seed of each task's first episode; the others follow it."""
    labels: tuple[str, ...] = ()
    """Names of the policies; made from the paths if not given."""
    env: str = "maniskill"
    """Environment type, as --env.type of LeRobot."""
    env_options: tuple[str, ...] = ()
    """The environment's options, as in proprioception=compact image_size=96."""
    decodings: tuple[str, ...] = ()
    """Measure each E0 policy decoded in each of these ways, in place of its own, as in
    one:start=zero,denoising_steps=1 mine: (its own); they are called LABEL-one and LABEL-mine."""
    controls: tuple[str, ...] = ()
    """Repeat episodes with something changed: blackout (black images; without images zeros, after
    normalization, in place of the environment's state), instruction (another than the right one),
    or options of the environment, as in camera_shift=15,0,1,0; each alone, or with chunks that come
    late, as in "blackout delay=4"."""
    delays: tuple[int, ...] = ()
    """Repeat episodes with chunks that come so many control steps after they were asked for."""
    execution_horizon: int | None = None
    """With delays: steps from asking for a chunk to asking again; the policy's n_action_steps if
    not given."""
    control_episodes: int = 20
    """Episodes of each control: the first ones of each task, at most all."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = Processes()
    episode_seconds: float = EPISODE_SECONDS
    """An episode that takes longer is taken to hang: it is tried once more, and then left out."""

    def __post_init__(self) -> None:
        for name in ("episodes", "control_episodes"):
            if getattr(self, name) < 1:
                raise BenchmarkSettingsError(
                    f"{name} must be at least 1, not {getattr(self, name)}"
                )
        try:
            require_different([read_decoding(text) for text in self.decodings])
        except DecodingError as error:
            raise BenchmarkSettingsError(str(error)) from error
        if not self.episode_seconds > 0:
            raise BenchmarkSettingsError(
                f"episode_seconds must be positive: {self.episode_seconds}"
            )
        if not 0 <= self.seed <= 2**31 - self.episodes:
            raise BenchmarkSettingsError(f"seeds must lie in [0, 2^31), the first is {self.seed}")
        for name, values in (("tasks", self.tasks), ("controls", self.every_control)):
            if len(set(values)) != len(values):
                raise BenchmarkSettingsError(f"{name} holds a name twice: {', '.join(values)}")
        for control in self.every_control:
            try:
                Delay.parse(control)
            except ValueError as error:
                raise BenchmarkSettingsError(str(error)) from error
            others = [part for part in control.split() if not is_option(part)]
            named = all("=" in part for part in others) or others in [[x] for x in INPUT_CONTROLS]
            if not control.split() or not named:
                raise BenchmarkSettingsError(
                    f"unknown control {control!r}: either {' or '.join(INPUT_CONTROLS)}, or "
                    "options of the environment, as in camera_shift=15,0,1,0; with or without a "
                    "delay, as in 'blackout delay=2'"
                )
        if not self.tasks:
            raise BenchmarkSettingsError("give at least one task")

    @property
    def every_control(self) -> tuple[str, ...]:
        """The controls, and those that the delays stand for."""
        every = self.execution_horizon
        horizon = "" if every is None else f" execution_horizon={every}"
        return (*self.controls, *(f"delay={steps}{horizon}" for steps in self.delays))

    @property
    def environment(self) -> EnvironmentSettings:
        return EnvironmentSettings(self.env, tuple(self.env_options))
