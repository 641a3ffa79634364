"""Shared by all tests: one thread, and skipping what this machine cannot do, with the reason."""

import os
from collections.abc import Iterator

import pytest
import torch

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def rendering() -> None:
    """Skips the test where no camera can take a picture."""
    from e0_maniskill import rendering_available

    available, reason = rendering_available()
    if not available:
        pytest.skip(f"needs rendering: {reason}")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As in the worker processes: the number of threads changes the last bits of a sum."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a GPU are skipped without one. The many fast tests of the method come last, so that
    no process ends with a long file."""
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu and not torch.cuda.is_available():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))
    items.sort(key=lambda item: item.path.parent.name == "e0")
