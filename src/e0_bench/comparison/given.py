"""Demonstrations that are given to a comparison, in place of collected ones.

They are cut in two, those to train on and those held out, and lie in the output from then on: what
was given is not looked at again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e0_bench.closed_loop.benchmark import Offer, offers_of
from e0_bench.closed_loop.checkpoints import misfit
from e0_bench.closed_loop.environments import EnvironmentSettings
from e0_bench.closed_loop.parallel import episode_pool
from e0_bench.comparison.recipe import Recipe
from e0_bench.comparison.simulators import evaluation_options, evaluation_type
from e0_bench.doctor.reading import read_recording
from e0_bench.files import read_json
from e0_system.workers import Processes

CUTS = ("dataset", "held_out")


def is_given(recipe: Recipe) -> bool:
    """Whether the recipe names demonstrations that are there already."""
    return "root" in recipe.dataset


def check_given(recipe: Recipe, output: Path) -> None:
    """Look at demonstrations that are given, and at the environment that is to show the same,
    before anything is cut or trained; not any more once they are cut.

    Raises DatasetError for what is no LeRobotDataset v3, DemonstrationsError where nothing is left
    to train on, where they were collected from seeds that are to be measured, and where they show
    something else than the environment.
    """
    if not is_given(recipe) or not _missing(output):
        return
    root = Path(recipe.dataset["root"])
    recording = read_recording(root)
    _parts(recipe, root)
    _require_unseen(recipe, root)
    environment = EnvironmentSettings(
        evaluation_type(recipe.environment), evaluation_options(recipe.environment)
    )
    with episode_pool(environment, Processes(workers=1)) as pool:
        offers = offers_of(environment, recipe.dataset["tasks"], pool)
    for some in offers.values():
        for offer in some:
            _require_fit(root, recording.features, offer)


def take_given(recipe: Recipe, output: Path) -> dict[str, int]:
    """Cut them in two, as far as that is not done; the number of episodes to train on, by what they
    were given as. Raises DemonstrationsError if they have changed between the two cuts."""
    from lerobot_policy_e0.splitting import take_episodes
    from lerobot_policy_e0.whole_dataset import RECORD

    root = Path(recipe.dataset["root"])
    if _missing(output):
        for name, episodes in zip(CUTS, _parts(recipe, root), strict=True):
            take_episodes(root, episodes, output / name)
    return {str(root): len(read_json(output / "dataset" / RECORD)["episodes"])}


def _missing(output: Path) -> list[str]:
    return [name for name in CUTS if not (output / name).exists()]


def _parts(recipe: Recipe, root: Path) -> tuple[list[int], list[int]]:
    """The episodes of each cut."""
    from lerobot_policy_e0.splitting import draw_held_out

    count = read_json(root / "meta" / "info.json")["total_episodes"]
    return draw_held_out(count, recipe.held_out["episodes"], recipe.held_out["seed"])


def _require_unseen(recipe: Recipe, root: Path) -> None:
    """What `e0 collect` wrote says from which seeds."""
    from lerobot_policy_e0.splitting import DemonstrationsError
    from lerobot_policy_e0.whole_dataset import RECORD

    if not (root / RECORD).is_file():
        return
    collected = read_json(root / RECORD).get("collected", {})
    seen = {seed for task in collected.values() for seed in task["seeds"]}
    for name in ("benchmark", "tuning"):
        section = getattr(recipe, name)
        if section is not None:
            wanted = range(section["seed"], section["seed"] + section["episodes"])
            if met := sorted(seen.intersection(wanted)):
                raise DemonstrationsError(
                    f"{root} was collected from the seeds {met[0]} to {met[-1]}, on which [{name}] "
                    "measures: choose another seed there"
                )


def _require_fit(root: Path, features: dict[str, Any], offer: Offer) -> None:
    from lerobot.utils.constants import ACTION
    from lerobot.utils.feature_utils import dataset_to_policy_features

    from lerobot_policy_e0.splitting import DemonstrationsError

    inputs = dataset_to_policy_features(features)
    action = inputs.pop(ACTION, None)
    size = None if action is None else int(action.shape[0])
    if wrong := misfit(inputs, size, offer.features, offer.action_size):
        raise DemonstrationsError(
            f"the dataset {root} does not fit {offer.name}: {wrong}. Choose other options of the "
            "[environment], or another dataset"
        )
