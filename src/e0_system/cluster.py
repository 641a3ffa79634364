"""Processes on the machines of a Ray cluster (https://docs.ray.io)."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from ipaddress import ip_address
from typing import Any

KNOCK_SECONDS = 5.0


class ClusterError(RuntimeError):
    """There is no such cluster, or no room in it."""


def connect(address: str, workers: int, share: Mapping[str, float]) -> None:
    """Join a cluster, unless this process did. Where it has room for some workers alone, it says
    so: the others wait for machines to join, or to come back.

    Raises ClusterError if it cannot be reached, or has room for none.

    address: HOST:PORT of its head, as `ray start` tells it."""
    host = _reachable_host(address)
    if ip_address(host).is_loopback:
        # Or Ray takes it for this machine's outer address, at which such a cluster does not answer.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ClusterError(
            "a cluster needs Ray: pip install 'lerobot_policy_e0[cluster]'"
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(f"could not join the Ray cluster at {address}: {error}") from error
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(_room(machine, share) for machine in machines)
    each = " and ".join(f"{amount:g} {name}s" for name, amount in share.items() if amount)
    if room == 0:
        raise ClusterError(f"no machine of the cluster at {address} has the {each} of a worker")
    if room < workers:
        logging.getLogger(__name__).warning(
            "The cluster has room for %d of %d workers, with %s each.", room, workers, each
        )


def _room(machine: Mapping[str, float], share: Mapping[str, float]) -> int:
    """How many workers a machine of these resources can hold."""
    return min(int(machine.get(name, 0.0) / each) for name, each in share.items() if each)


def _reachable_host(address: str) -> str:
    """The address of the host, after a knock: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"a cluster is given as HOST:PORT of its head, got {address!r}")
    try:
        with socket.create_connection((host, int(port)), KNOCK_SECONDS) as knock:
            return knock.getpeername()[0]
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error}): begin one there with `ray start "
            f"--head`, and join it from here with `ray start --address={address}`"
        ) from error


class ClusterProcess(Executor):
    """One process somewhere in the cluster, as ProcessPoolExecutor(1) is one here: calls raise
    BrokenProcessPool where the process, or its machine, is lost.

    share: CPUs and GPUs. ready: called with this once the process has started, or cannot.
    """

    def __init__(
        self,
        share: Mapping[str, float],
        initializer: Callable[..., None] | None,
        initargs: tuple[Any, ...],
        ready: Callable[[Executor], None],
    ) -> None:
        import ray

        options = {f"num_{name.lower()}s": each for name, each in share.items()}
        options |= {"scheduling_strategy": "SPREAD"}
        new = ray.remote(_Actor).options(**options).remote
        self._actor: Any = new(os.getcwd(), initializer, initargs)
        self._actor.call.remote(abs, (0,), {}).future().add_done_callback(lambda _: ready(self))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The call's future result; it raises what the call raised."""
        answer: Future[Any] = Future()
        asked: Future[Any] = self._actor.call.remote(fn, args, kwargs).future()
        asked.add_done_callback(lambda told: _pass_on(told, answer))
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the process."""
        self.kill()

    def kill(self) -> None:
        """End the process at once, whatever it is at."""
        import ray

        ray.kill(self._actor)


class _Actor:
    """On a machine of the cluster, in the directory that the calls were made in: their paths may be
    relative."""

    def __init__(
        self,
        directory: str,
        initializer: Callable[..., None] | None,
        initargs: tuple[Any, ...],
    ) -> None:
        if not os.path.isdir(directory):
            raise FileNotFoundError(
                f"{directory} is not on {socket.gethostname()}: the machines of a cluster must "
                "share the directory that the command is given in"
            )
        os.chdir(directory)
        if initializer is not None:
            initializer(*initargs)

    def call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return fn(*args, **kwargs)


def _pass_on(told: Future[Any], answer: Future[Any]) -> None:
    """What Ray tells of a call, in the terms of `concurrent.futures`."""
    from ray.exceptions import RayActorError, RayTaskError

    error = told.exception()
    if error is None:
        answer.set_result(told.result())
    elif isinstance(error, RayActorError):
        answer.set_exception(BrokenProcessPool(str(error)))
    elif isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error.cause.__cause__ = RuntimeError(str(error))  # with the traceback from there
        answer.set_exception(error.cause)
    else:
        answer.set_exception(error)
