"""One healthy dataset, written once."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from recordings import write_healthy

    return write_healthy(tmp_path_factory.mktemp("doctor") / "healthy")
