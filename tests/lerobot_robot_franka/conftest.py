"""The Franka plugin is tested where what it drives the simulated arm with could be installed."""

from importlib.util import find_spec

NEEDED = ("franky", "franky_sim", "pink", "daqp", "zmq", "lerobot_robot_franka")
MISSING = [name for name in NEEDED if find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> list[str]:
    """Says why tests were left out."""
    return [f"no tests of the Franka plugin: {', '.join(MISSING)} not installed"] if MISSING else []
