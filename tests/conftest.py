"""Shared by all tests: one thread, and skipping what this machine cannot do, with the reason."""

import os
from functools import cache

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

NEEDS_GPU = "needs a GPU"


@pytest.fixture(scope="session")
def rendering() -> None:
    """Skips the test where no camera can take a picture."""
    from e0_maniskill import rendering_available

    available, reason = rendering_available()
    if not available:
        pytest.skip(f"needs rendering: {reason}")


@pytest.hookimpl(tryfirst=True)  # before `-m gpu` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The many fast tests of the method come last, so that no process ends with a long file. What
    needs a GPU is marked so, and skipped where there is none."""
    items.sort(key=lambda item: item.path.parent.name == "e0")
    for item in items:
        reasons = {mark.kwargs.get("reason") for mark in item.iter_markers("skipif")}
        if NEEDS_GPU in reasons:
            item.add_marker("gpu")
        elif item.get_closest_marker("gpu") and not cuda_available():
            item.add_marker(pytest.mark.skip(reason=NEEDS_GPU))


@cache
def cuda_available() -> bool:
    import torch

    return torch.cuda.is_available()
