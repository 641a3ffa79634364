"""Small datasets, written once, and LeRobot's programs run in this process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _written(tmp_path_factory: pytest.TempPathFactory, name: str, camera: str | None) -> Path:
    from small_dataset import write_dataset

    return write_dataset(tmp_path_factory.mktemp("datasets") / name, camera)


@pytest.fixture(scope="session")
def image_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _written(tmp_path_factory, "images", "image")


@pytest.fixture(scope="session")
def video_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _written(tmp_path_factory, "videos", "video")


@pytest.fixture(scope="session")
def vector_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _written(tmp_path_factory, "vectors", None)


@pytest.fixture
def run_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Runs a program's `main` with command line arguments, and undoes what it leaves behind."""
    from accelerate.state import AcceleratorState

    root = logging.getLogger()
    handlers, filters, level = root.handlers[:], root.filters[:], root.level

    def restore() -> None:
        root.handlers[:], root.filters[:] = handlers, filters
        root.setLevel(level)
        AcceleratorState._reset_state(reset_partial_state=True)

    def run(main: Callable[[], None], *arguments: str) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        try:
            main()
        finally:
            restore()

    yield run
    restore()
