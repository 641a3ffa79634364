"""A Ray cluster on the loopback device, for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Before Ray is imported: or it takes the loopback device for this machine's outer address.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
NODE = {"node_ip_address": "127.0.0.1", "object_store_memory": 100 * 2**20}


@contextmanager
def two_nodes(monkeypatch: pytest.MonkeyPatch, python_path: Path) -> Iterator[Any]:
    """A cluster of a head without CPUs and the nodes `one` and `other` with one each.

    python_path: where workers find the functions that they are given."""
    ray = pytest.importorskip("ray", reason="the extra 'cluster' is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, str(python_path)]))
    head = NODE | {"num_cpus": 0, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args=head)
    cluster.one = cluster.add_node(num_cpus=1, **NODE)
    cluster.other = cluster.add_node(num_cpus=1, **NODE)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
