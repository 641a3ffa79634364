"""The simulator that a recipe's [environment] names: how demonstrations are made there, and how
policies meet it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from e0_experts.collection import CollectionSettings

EXPERT = ("action_noise", "hold_steps", "depth")
"""Settings of [dataset] that say how the expert acts and what is seen of it."""


def simulator(environment: Mapping[str, Any]) -> str:
    """`maniskill` where the section does not say `type = "libero"`."""
    return environment.get("type", "maniskill")


def known_simulators() -> tuple[str, ...]:
    """Those that demonstrations can be collected in."""
    return ("maniskill", "libero")


def known_options(environment: Mapping[str, Any]) -> list[str]:
    """What the section may hold, by its type."""
    if simulator(environment) == "libero":
        return ["image_size", "type"]
    from e0_maniskill.demonstrations import ManiSkillSettings

    own = {field.name for field in fields(ManiSkillSettings)}
    return sorted((own | {"type"}) - {*EXPERT, "cameras", "camera_shift", "lead_in"})


def known_of_expert(environment: Mapping[str, Any]) -> tuple[str, ...]:
    """What [dataset] may say about the expert, by the environment's type."""
    return EXPERT[:-1] if simulator(environment) == "libero" else EXPERT


def collection_settings(
    environment: Mapping[str, Any], dataset: Mapping[str, Any]
) -> CollectionSettings[Any]:
    """How demonstrations are made. Raises AssetsMissingError where LIBERO is not installed."""
    options = {name: value for name, value in environment.items() if name != "type"}
    options |= {name: dataset[name] for name in EXPERT if name in dataset}
    if simulator(environment) == "libero":
        from e0_libero.assets import wire

        wire()  # or say what is not installed
        from e0_libero.demonstrations import LiberoSettings

        return LiberoSettings(**options)
    from e0_maniskill.demonstrations import ManiSkillSettings

    return ManiSkillSettings(**options)


def evaluation_type(environment: Mapping[str, Any]) -> str:
    """The environment type of `e0 bench`; LIBERO's is the one whose camera can be moved."""
    kind = simulator(environment)
    return "libero_camera" if kind == "libero" else kind


def evaluation_options(environment: Mapping[str, Any]) -> tuple[str, ...]:
    """The same environment's options for `e0 bench`."""
    return tuple(f"{name}={value}" for name, value in environment.items() if name != "type")
