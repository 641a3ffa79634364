"""Shared by the tests that drive the simulator: skip what this machine cannot do, and say why."""

import importlib.util
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

if importlib.util.find_spec("mani_skill") is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def rendering() -> None:
    """Skips the test where no camera can take a picture."""
    from e0_maniskill import rendering_available

    available, reason = rendering_available()
    if not available:
        pytest.skip(f"needs rendering: {reason}")
