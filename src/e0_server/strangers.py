"""Connections that are no clients yet, or never will be: a new one takes the place of the oldest.
So they never use up what the system lets a process hold open, and who brings the token is let in.
"""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection

MAX_STRANGERS = 64


class Strangers:
    """The connections that have said nothing yet, wait for their turn, or were refused and stay."""

    def __init__(self) -> None:
        self._connections: dict[ServerConnection, None] = {}  # the oldest first

    def came(self, connection: ServerConnection) -> None:
        """Note a new connection, and drop the oldest if they are too many."""
        self._connections[connection] = None
        if len(self._connections) > MAX_STRANGERS:
            oldest = next(iter(self._connections))
            self.gone(oldest)
            oldest.transport.abort()

    def gone(self, connection: ServerConnection) -> None:
        """It became a client, or left."""
        self._connections.pop(connection, None)

    def kind(self) -> type[ServerConnection]:
        """The kind of connections that are noted here."""
        strangers = self

        class Connection(ServerConnection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                strangers.came(self)

            def connection_lost(self, exc: Exception | None) -> None:
                strangers.gone(self)
                super().connection_lost(exc)

        return Connection
