"""Numbers about a running server, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """A registry of one server's own, so that several can run in a process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.inference = self._histogram("inference", "Making a chunk.")
        self.queue = self._histogram("queue", "Waiting for the policy.")
        self.clients = Gauge("e0_clients", "Connected clients.", registry=self._registry)
        self.waiting = Gauge("e0_waiting", "Requests that wait or run.", registry=self._registry)
        self.requests = Counter(
            "e0_requests", "Requests by how they ended.", ["outcome"], registry=self._registry
        )

    def page(self) -> str:
        """The numbers in Prometheus' text format."""
        return generate_latest(self._registry).decode()

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"e0_{name}_seconds", text, buckets=SECONDS, registry=self._registry)
