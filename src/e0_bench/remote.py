"""`e0 remote`: a checkpoint directory whose policy acts by a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class RemoteCommand:
    """server: "ws://HOST:PORT" of `e0 serve ... --robot=native`. output: a directory that does not
    exist yet. timeout: seconds that a chunk may take."""

    server: Annotated[str, tyro.conf.Positional]
    output: Annotated[Path, tyro.conf.Positional]
    timeout: float = 5.0


def run_remote(command: RemoteCommand) -> None:
    """Ask the server what it serves, and write the directory.

    Raises FileExistsError for a directory that is there, RuntimeError without a server.
    """
    from lerobot.policies import make_pre_post_processors

    from lerobot_policy_e0.remote.configuration_remote import RemoteConfig
    from lerobot_policy_e0.remote.modeling_remote import RemotePolicy

    if command.output.exists():
        raise FileExistsError(f"{command.output} exists already; choose another directory")
    policy = RemotePolicy(RemoteConfig(server=command.server, timeout=command.timeout))
    policy.save_pretrained(command.output)
    for processor in make_pre_post_processors(policy.config):
        processor.save_pretrained(command.output)
    print(f"{command.output} acts by {command.server}: {policy.config.checkpoint}")
