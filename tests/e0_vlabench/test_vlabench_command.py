"""The command where something is missing: errors by name, and nothing written."""

import importlib.util
import sys
from pathlib import Path

import pytest
from test_vlabench_policy import Counting

from e0_vlabench.command import main
from e0_vlabench.errors import AssetsError, NotInstalledError
from e0_vlabench.installation import require_assets, vlabench_root
from running_server import serving

CONSTANTS = """
    "apple": [Fruit, get_object_list(os.path.join(xml_root, "obj/meshes/fruit/apple"))],
    "plate": [Plate, get_object_list(os.path.join(xml_root, "obj/meshes/plates"), all=False)],
"""


def package(directory: Path) -> Path:
    """As much of VLABench as is looked at before it is imported."""
    root = directory / "VLABench"
    (root / "configs").mkdir(parents=True)
    (root / "__init__.py").write_text("raise AssertionError('imported without its assets')")
    (root / "configs/constant.py").write_text(CONSTANTS)
    return root


def test_absent_assets_are_named_with_how_to_get_them(tmp_path: Path) -> None:
    root = package(tmp_path)
    (root / "assets/obj/meshes/plates").mkdir(parents=True)
    message = r"lacks assets: assets/obj/meshes/fruit/apple, assets/scenes; download .*assets\.py"
    with pytest.raises(AssetsError, match=message):
        require_assets(root)
    for name in ("assets/obj/meshes/fruit/apple", "assets/scenes"):
        (root / name).mkdir(parents=True)
    require_assets(root)


@pytest.mark.skipif(importlib.util.find_spec("VLABench") is not None, reason="VLABench is here")
def test_vlabench_absent_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotInstalledError, match=r"is not installed here: .*docs/vlabench\.md"):
        vlabench_root()
    root = package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert vlabench_root() == root
    assert "VLABench" not in sys.modules


def test_the_command_ends_with_the_error_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    asked = ["--tasks", "select_fruit", "--out", str(tmp_path / "out")]
    with serving(Counting()) as (url, _):
        with pytest.raises(SystemExit, match=r"e0-vlabench: .* lacks assets: assets/obj"):
            main([url, *asked])
        with pytest.raises(SystemExit, match="2"):
            main([url, *asked, "--episodes", "0"])
    with pytest.raises(SystemExit, match="e0-vlabench: the address must begin with ws://"):
        main(["127.0.0.1:8000", *asked])
    assert not (tmp_path / "out").exists()
