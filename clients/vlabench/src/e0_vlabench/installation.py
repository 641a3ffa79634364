"""VLABench where it is installed: found, checked for its assets, imported."""

from __future__ import annotations

import importlib
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from e0_vlabench.errors import AssetsError, NotInstalledError

DOWNLOAD = "python scripts/download_assets.py in VLABench's checkout"
NAMED = 5  # absent directories that are named, of what may be a hundred
_LISTED = re.compile(r'get_object_list\(os\.path\.join\(xml_root, "([^"]+)"')


def vlabench_root() -> Path:
    """The directory of the package VLABench, without importing it. Raises NotInstalledError."""
    spec = find_spec("VLABench")
    if spec is None or spec.origin is None:
        raise NotInstalledError(
            "VLABench is not installed here: run this in its environment, with its checkout on "
            "PYTHONPATH (docs/vlabench.md)"
        )
    return Path(spec.origin).parent


def require_assets(root: Path) -> None:
    """Raises AssetsError naming the directories of objects, and that of scenes, that are absent.

    VLABench lists them as it is imported, and fails there at the first one.
    """
    folders = [f"assets/{name}" for name in listed_objects(root)]
    absent = [name for name in [*folders, "assets/scenes"] if not (root / name).is_dir()]
    if absent:
        more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
        raise AssetsError(
            f"{root} lacks assets: {', '.join(absent[:NAMED])}{more}; download them with {DOWNLOAD}"
        )


def listed_objects(root: Path) -> list[str]:
    """The directories of objects, below `assets`, that VLABench lists as it is imported."""
    return sorted(set(_LISTED.findall((root / "configs/constant.py").read_text())))


def import_vlabench() -> tuple[Any, list[str]]:
    """VLABench's module `envs`, and the names of all tasks.

    Raises NotInstalledError naming what VLABench needs and cannot be imported.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        for name in ("VLABench.robots", "VLABench.tasks"):  # they register what they define
            importlib.import_module(name)
        envs = importlib.import_module("VLABench.envs")
        register = importlib.import_module("VLABench.utils.register").register
    except ImportError as error:
        raise NotInstalledError(
            f"VLABench cannot be imported ({error}): install what it needs (docs/vlabench.md)"
        ) from error
    return envs, list(register)
