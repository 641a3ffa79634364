"""The same calls on the machines of a cluster: two nodes of Ray on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e0_system.cluster import ClusterError
from e0_system.workers import Processes, WorkerLostError, WorkerPool
from ray_cluster import two_nodes

slow = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with two_nodes(monkeypatch, python_path=Path(__file__).parent) as nodes:
        yield nodes


def node_after(seconds: float) -> str:
    """In a worker."""
    import ray

    time.sleep(seconds)
    return ray.get_runtime_context().get_node_id()


def begin(marker: Path) -> None:
    """In a worker."""
    marker.touch()
    time.sleep(600)


@slow
def test_calls_are_spread_and_those_of_a_lost_node_are_done_by_the_other(cluster: Any) -> None:
    processes = Processes(2, cluster=cluster.address)
    with WorkerPool(processes, 600) as pool:
        both = {future.result() for future in [pool.submit(node_after, 2) for _ in range(2)]}
        assert len(both) == 2
        late = [pool.submit(node_after, 2) for _ in range(6)]
        time.sleep(1)
        cluster.remove_node(cluster.other, allow_graceful=False)
        assert {future.result() for future in late[2:]} == {cluster.one.node_id}
        assert all(future.result() in both for future in late)


@slow
def test_errors_hangs_and_deaths_are_told_as_on_one_machine(cluster: Any) -> None:
    with WorkerPool(Processes(1, cluster=cluster.address), 2) as pool:
        with pytest.raises(TypeError, match="bad operand"):
            pool.submit(abs, "a").result()
        with pytest.raises(WorkerLostError, match="died, 2 times over"):
            pool.submit(os._exit, 3).result()
        with pytest.raises(WorkerLostError, match="still at it after 2 s, 2 times over"):
            pool.submit(time.sleep, 600).result()
        assert pool.submit(abs, -5).result() == 5


@slow
def test_calls_end_at_once_when_their_pool_is_left(cluster: Any, tmp_path: Path) -> None:
    pool = WorkerPool(Processes(2, cluster=cluster.address))
    for number in range(20):
        pool.submit(begin, tmp_path / str(number))
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.1)
    began = time.monotonic()
    pool.shutdown(cancel_futures=True)
    assert time.monotonic() - began < 60
    assert len(list(tmp_path.iterdir())) == 2, "none of the others began"


@slow
def test_calls_are_made_in_the_directory_of_the_command(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with WorkerPool(Processes(1, cluster=cluster.address)) as pool:
        assert pool.submit(os.getcwd).result() == str(tmp_path)


@slow
def test_without_room_for_all_workers_the_others_do_it(
    cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with WorkerPool(Processes(3, cluster=cluster.address)) as pool:
        assert [pool.submit(abs, -number).result() for number in range(4)] == [0, 1, 2, 3]
        both = [future.result() for future in [pool.submit(node_after, 1) for _ in range(6)]]
    assert len(set(both)) == 2
    assert "room for 2 of 3 workers, with 1 CPUs each" in caplog.text


@slow
def test_without_room_for_any_it_is_refused(cluster: Any) -> None:
    with pytest.raises(ClusterError, match=r"no machine .* has the 2 CPUs of a worker"):
        WorkerPool(Processes(1, cluster=cluster.address, worker_cpus=2))
    with pytest.raises(ClusterError, match=r"has the 1 CPUs and 0\.25 GPUs of a worker"):
        WorkerPool(Processes(1, cluster=cluster.address, worker_gpus=0.25))


def test_without_a_cluster_it_says_how_to_begin_one() -> None:
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 .*ray start"):
        WorkerPool(Processes(1, cluster="127.0.0.1:1"))
    with pytest.raises(ClusterError, match="HOST:PORT of its head, got 'auto'"):
        WorkerPool(Processes(1, cluster="auto"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"cluster": "host:6379", "worker_cpus": 0}, "worker_cpus must be at least 1, got 0"),
        ({"cluster": "host:6379", "worker_gpus": -1.0}, "worker_gpus must be at least 0"),
        ({"worker_gpus": 0.5}, "give --cluster"),
    ],
)
def test_impossible_processes(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Processes(**settings)
