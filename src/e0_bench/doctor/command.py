"""The command `e0 doctor` and its flags."""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import draccus
import tyro
from draccus.utils import DraccusException
from lerobot.configs import PreTrainedConfig

from e0_bench.doctor.doctor import Diagnosis, diagnose, told
from e0_bench.doctor.page import write_page
from lerobot_policy_e0 import E0Config


@dataclass(frozen=True)
class DoctorCommand:
    """Which dataset to look at."""

    dataset: Annotated[Path, tyro.conf.Positional]
    """Directory of a LeRobotDataset v3, the one that holds meta/ and data/."""
    repo_id: str | None = None
    """Its name in what is printed; local/DIRECTORY if not given."""
    html: Path | None = None
    """Write a page with pictures and histograms here, too."""


def split_flags(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The doctor's own arguments, and those of the policy without their `--policy.`."""
    own, policy = [], []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--policy."):
            own.append(argument)
            continue
        name, equals, value = argument.removeprefix("--policy.").partition("=")
        policy.append(f"--{name}={value if equals else next(rest, '')}")
    return own, policy


def read_config(flags: list[str]) -> E0Config:
    """The policy's settings from its flags, as training takes them: `--horizon=16`; `--path=` is a
    checkpoint whose settings are taken. Raises ValueError for flags that training would refuse."""
    given = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
    kind = given.pop("type", "e0")
    if kind != "e0":
        raise ValueError(f"the doctor looks with the eyes of policy type e0, not {kind!r}")
    path = given.pop("path", None)
    known = {field.name for field in fields(E0Config)}
    unknown = [name for name in given if name.partition(".")[0] not in known]
    if unknown:
        close = get_close_matches(unknown[0], known, 1)
        hint = f"; did you mean --policy.{close[0]}?" if close else ""
        raise ValueError(f"unknown setting --policy.{unknown[0]}{hint}")
    # The device changes nothing here, and may be absent from this machine.
    overrides = [f"--{name}={value}" for name, value in {**given, "device": "cpu"}.items()]
    try:
        if path is None:
            return draccus.parse(E0Config, args=overrides)
        config = PreTrainedConfig.from_pretrained(path, cli_overrides=overrides)
    except DraccusException as error:
        raise ValueError(str(error.__cause__ or error)) from error
    if not isinstance(config, E0Config):
        raise ValueError(f"{path} is a policy of type {config.type}, not e0")
    return config


def run_doctor(command: DoctorCommand, config: E0Config) -> Diagnosis:
    """Diagnose, print, and write the page if one is asked for. Raises what `diagnose` raises."""
    diagnosis = diagnose(command.dataset, config, command.repo_id)
    print(told(diagnosis))
    if command.html is not None:
        write_page(command.html, diagnosis)
        print(f"Page: {command.html}")
    return diagnosis
