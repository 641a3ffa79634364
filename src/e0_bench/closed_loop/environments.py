"""Any LeRobot environment type, one episode at a time.

An environment is named by its type (`--env.type` of LeRobot), options ("name=value", as its other
`--env.` flags) and a task. Everything is made by LeRobot's own functions and stepped as its
`lerobot-eval` does, so what runs there runs here.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv
    from lerobot.envs import EnvConfig

# ManiSkillEnv refuses actions outside [-1, 1]. Policies that regress actions leave it by a little,
# so theirs are clipped there, and the steps counted. Elsewhere actions go through as in LeRobot,
# since the declared bounds are often nominal (ALOHA's joints exceed theirs).
STRICT_BOUNDS = ("maniskill",)
KEPT_OPEN = 4  # environments of one process


class UnknownEnvironmentError(ValueError):
    """An environment type, option or task that does not exist."""


@dataclass(frozen=True)
class EnvironmentSettings:
    """An environment type and its options, each "name=value" with a YAML value."""

    type: str = "maniskill"
    options: tuple[str, ...] = ()

    def config(self, task: str | None = None) -> EnvConfig:
        """LeRobot's configuration, of one task or of the type's default.

        Raises UnknownEnvironmentError for a type, option or task that does not exist.
        """
        import draccus
        from lerobot.envs import EnvConfig

        register_plugins()
        known = EnvConfig.get_known_choices()
        if self.type not in known:
            raise UnknownEnvironmentError(
                f"unknown environment type {self.type!r}; known: {', '.join(sorted(known))}"
            )
        data = {"type": self.type} | parse_options(self.options)
        if task is not None:
            data["task"] = _suite(task)
        try:
            return draccus.decode(EnvConfig, data)
        except draccus.ParsingError as error:
            raise UnknownEnvironmentError(
                f"no environment {self.type!r} with task {task!r} and options "
                f"{list(self.options)}: {error.__cause__ or error}"
            ) from error

    def changed(self, options: Sequence[str]) -> EnvironmentSettings:
        """With these options in place of those of the same name."""
        names = parse_options(options)
        kept = [o for o in self.options if o.partition("=")[0] not in names]
        return EnvironmentSettings(self.type, (*kept, *options))

    def changed_options(self) -> dict[str, Any]:
        """The options whose value is not the type's default, as JSON data."""
        import draccus

        given, default = (
            json.loads(json.dumps(draccus.encode(settings.config()), default=str))
            for settings in (self, EnvironmentSettings(self.type))
        )
        # What follows from the options need not be compared.
        names = given.keys() - {"features", "features_map"}
        return {name: given[name] for name in sorted(names) if given[name] != default[name]}


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """["image_size=96"] -> {"image_size": 96}. Raises UnknownEnvironmentError for another form."""
    data: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not name or not equals or name in ("type", "task") or name in data:
            raise UnknownEnvironmentError(
                f"an environment option is name=value, given once, got {option!r}; the type and "
                "the tasks have flags of their own"
            )
        try:
            data[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UnknownEnvironmentError(f"option {option!r} has no YAML value") from error
    return data


def register_plugins() -> None:
    """Import this package's adapters and all other installed LeRobot plugins."""
    from lerobot.utils.import_utils import register_third_party_plugins

    import lerobot_policy_e0  # noqa: F401  (found also where it is not installed)

    register_third_party_plugins()


@dataclass(frozen=True)
class Step:
    """What an action led to.

    clipped: it had to be brought into the action space's bounds. way, between: for tasks that can
    be done in several ways, see `ManiSkillEnv`; None for others. stage: the number of the last of
    the environment's stages that the state reaches, 0 for none.
    """

    observation: dict[str, Any]
    reward: float
    success: bool
    ended: bool
    clipped: bool
    way: int | None = None
    between: bool | None = None
    stage: int = 0


class Environment:
    """LeRobot's vector environment of one task with a single member."""

    def __init__(self, settings: EnvironmentSettings, name: str, vector: Any) -> None:
        self.settings = settings
        self.name = name
        self.config = settings.config(name)
        self.vector = vector
        self.step_limit = int(vector.call("_max_episode_steps")[0])
        self._can_be_blind = self._attribute("blind", None) is not None
        stages = self._attribute("stages", None)
        # On the way to success, by name; an environment of others may mean something else by it.
        self.stages: tuple[str, ...] = stages if isinstance(stages, tuple) else ()
        self._steps = 0

    @property
    def instruction(self) -> str:
        """What the present episode asks for, empty if nothing does."""
        return str(self._attribute("task_description", self._attribute("task", "")))

    @property
    def instructions(self) -> tuple[str, ...]:
        """Every instruction that an episode may have, as far as the environment tells."""
        return tuple(self._attribute("instructions", (self.instruction,)))

    @property
    def variant(self) -> str | None:
        """What a suite calls the variant of its task that the present episode is; None where there
        are none."""
        return self._attribute("variant", None)

    def reset(self, seed: int) -> dict[str, Any]:
        """Start the episode of this seed; the observation has a leading axis of 1."""
        from lerobot.envs.utils import NEW_ROLLOUT_OPTION

        if self._attribute("init_state_id", None) is not None:
            # LIBERO takes its initial states in turn; let the seed name them.
            self.vector.set_attr("init_state_id", seed)
        self._steps = 0
        return self.vector.reset(seed=[seed], options={NEW_ROLLOUT_OPTION: True})[0]

    def step(self, action: np.ndarray, *, look: bool = True) -> Step:
        """Take an action (1, D). Without `look` the observation that follows won't be looked at,
        and an environment that can save itself the pictures does (`ManiSkillEnv.blind`)."""
        taken = self._within_bounds(action)
        if self._can_be_blind:
            self.vector.set_attr("blind", not look)
        observation, reward, terminated, truncated, info = self.vector.step(taken)
        self._steps += 1
        # The vector environment may have reset its member already.
        outcome = info.get("final_info", info)
        has_ways = "way" in outcome and "between" in outcome
        return Step(
            observation=observation,
            reward=float(reward[0]),
            success=bool(np.asarray(outcome.get("is_success", False)).reshape(-1)[0]),
            ended=bool(terminated[0] or truncated[0]) or self._steps >= self.step_limit,
            clipped=not np.array_equal(taken, action, equal_nan=True),
            way=int(outcome["way"][0]) if has_ways else None,
            between=bool(outcome["between"][0]) if has_ways else None,
            stage=int(outcome["stage"][0]) if self.stages and "stage" in outcome else 0,
        )

    def render(self) -> np.ndarray:
        """A picture, uint8 (height, width, 3)."""
        return self.vector.render()[0]

    def _within_bounds(self, action: np.ndarray) -> np.ndarray:
        if self.settings.type not in STRICT_BOUNDS:
            return action
        space = self.vector.single_action_space
        return action.clip(space.low, space.high)

    def _attribute(self, name: str, default: Any) -> Any:
        try:
            return self.vector.call(name)[0]
        except (AttributeError, NotImplementedError):
            return default


_open: dict[tuple[EnvironmentSettings, str], Environment] = {}  # by use, the latest last


def open_environment(settings: EnvironmentSettings, name: str) -> Environment:
    """The environment of this name; a few stay open, since making one is slow."""
    if (settings, name) not in _open:
        _keep_open(settings, name, _create(settings, name))
    _open[settings, name] = _open.pop((settings, name))
    return _open[settings, name]


def environment_names(settings: EnvironmentSettings, task: str) -> list[str]:
    """The environments behind a task: itself, or all of a suite as "suite/0", "suite/1", ... Raises
    UnknownEnvironmentError for a number that the suite does not have."""
    if (settings, task) in _open:
        return [task]
    vectors = _create(settings, task)
    if task in vectors:
        _keep_open(settings, task, vectors)
        return [task]
    for vector in vectors.values():
        vector.close()
    if _suite(task) != task:
        raise _no_task(task, vectors)
    return list(vectors)


def _create(settings: EnvironmentSettings, task: str) -> dict[str, VectorEnv]:
    """LeRobot's environments of a task, by name."""
    config = settings.config(task)
    try:
        with redirect_stdout(io.StringIO()):
            suites = config.create_envs(n_envs=1)
    except Exception as error:
        raise UnknownEnvironmentError(
            f"environment {settings.type!r} cannot make task {task!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    vectors = [(suite, number, v) for suite, some in suites.items() for number, v in some.items()]
    if len(vectors) == 1 and task in (_suite(task), f"{_suite(task)}/{vectors[0][1]}"):
        return {task: vectors[0][2]}
    return {f"{suite}/{number}": vector for suite, number, vector in vectors}


def _keep_open(settings: EnvironmentSettings, name: str, vectors: dict[str, VectorEnv]) -> None:
    """Keep one of the environments, close the others and those that were not used lately."""
    if name not in vectors:
        raise _no_task(name, vectors)
    for other in vectors.keys() - {name}:
        vectors[other].close()
    while len(_open) >= KEPT_OPEN:
        _open.pop(next(iter(_open))).vector.close()
    _open[settings, name] = Environment(settings, name, vectors[name])


def _no_task(name: str, known: Iterable[str]) -> UnknownEnvironmentError:
    return UnknownEnvironmentError(f"no task {name!r}; there are {', '.join(known)}")


def _suite(task: str) -> str:
    """The suite of "libero_10/3", which is libero_10; any other task is its own."""
    suite, _, number = task.rpartition("/")
    return suite if suite and number.isdigit() else task
