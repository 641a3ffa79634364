"""What a server needs of a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class ObservationError(ValueError):
    """An observation that the policy cannot act on; says which key, what came, what was expected.
    The client may go on with a better one."""


class ServedPolicy(Protocol):
    """A policy that answers one observation at a time and remembers none.

    metadata: what clients are told when they connect; plain values alone.
    """

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    def warm_up(self) -> None:
        """Make ahead what the first chunk would wait for, in the thread that will make chunks."""
        ...

    def infer(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        """The chunk for an observation: at least `actions`, float32 (steps, action size). Every
        array in it has the chunk's steps as its first axis, since clients cut them step by step.

        Raises ObservationError.
        """
        ...
