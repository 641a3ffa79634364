"""The Franka plugin is tested where franky-control and franky-sim could be installed."""

from importlib.util import find_spec

MISSING = [
    name for name in ("franky", "franky_sim", "lerobot_robot_franka") if find_spec(name) is None
]
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> list[str]:
    """Says why tests were left out."""
    return [f"no tests of the Franka plugin: {', '.join(MISSING)} not installed"] if MISSING else []
