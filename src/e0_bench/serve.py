"""`e0 serve`: a checkpoint behind openpi's websocket protocol."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class ServeCommand:
    """What to serve, to whom, and where.

    checkpoint: directory (.../pretrained_model) or hub id of any LeRobot policy. robot: whose
    clients are served; `native` ones send the checkpoint's own features by their names. rename:
    KEY=FEATURE for pictures that have another name in the checkpoint than in the robot's table.
    host, port: where to listen. token: what clients must bring; better set E0_SERVER_TOKEN, which
    other users of this machine cannot see. device: where the policy runs, the checkpoint's own if
    not given. record: directory for all that is asked and answered.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    robot: Literal["native", "libero", "droid", "aloha", "franka", "vlabench", "maniskill"] = (
        "native"
    )
    rename: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    device: str | None = None
    record: Path | None = None


def run_serve(command: ServeCommand) -> None:
    """Load the checkpoint, warm it up, and serve it until SIGTERM or Ctrl+C.

    Raises ValueError, RuntimeError or OSError for what cannot be served.
    """
    try:
        from e0_server import TOKEN
        from e0_server.recorder import Recorder
        from e0_server.server import PolicyServer, ServerSettings
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"serving needs the package {error.name!r}: pip install 'lerobot_policy_e0[serve]'"
        ) from error
    from lerobot_policy_e0.serving import ServedCheckpoint

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("e0_server").setLevel(logging.INFO)
    token = command.token or os.environ.get(TOKEN) or None
    settings = ServerSettings(command.host, command.port, token)
    policy = ServedCheckpoint(
        command.checkpoint, command.robot, _renamed(command.rename), command.device
    )
    recorder = None if command.record is None else Recorder(command.record)
    PolicyServer(policy, settings, recorder).run()


def _renamed(pairs: tuple[str, ...]) -> dict[str, str]:
    renamed = {}
    for pair in pairs:
        key, equals, feature = pair.partition("=")
        if not (key and equals and feature):
            raise ValueError(f"--rename takes KEY=FEATURE, got {pair!r}")
        if key in renamed:
            raise ValueError(f"--rename names {key!r} twice")
        renamed[key] = feature
    return renamed
