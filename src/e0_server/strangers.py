"""Connections of which nothing good comes must end, so that a crowd of them never uses up what the
system lets a process hold open: of those that have said nothing yet a new one takes the oldest's
place, and who said goodbye, or was sent away, goes soon."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection

MAX_SILENT = 256
"""Over twice asyncio's backlog of 100, which it accepts before it reads a byte: who speaks at once
is never among the oldest."""

CLOSING_SECONDS = 1.0
"""As long may a connection that is closing stay half open."""


def cut_off(connection: ServerConnection) -> None:
    """End a connection soon, whatever the other side does."""
    connection.loop.call_later(CLOSING_SECONDS, connection.transport.abort)


class Strangers:
    """The connections whose request has not come."""

    def __init__(self) -> None:
        self._silent: dict[ServerConnection, None] = {}  # the oldest first

    def came(self, connection: ServerConnection) -> None:
        """Note a new connection, and drop the oldest if they are too many."""
        self._silent[connection] = None
        if len(self._silent) > MAX_SILENT:
            oldest = next(iter(self._silent))
            self.spoke(oldest)
            oldest.transport.abort()

    def spoke(self, connection: ServerConnection) -> None:
        """Its request came, or it left."""
        self._silent.pop(connection, None)

    def kind(self) -> type[ServerConnection]:
        """The kind of connections that are noted here."""
        strangers = self

        class Connection(ServerConnection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                super().connection_made(transport)
                strangers.came(self)

            def data_received(self, data: bytes) -> None:
                closing = self.protocol.close_expected()
                super().data_received(data)
                if self.protocol.close_expected() and not closing:
                    cut_off(self)

            def connection_lost(self, exc: Exception | None) -> None:
                strangers.spoke(self)
                super().connection_lost(exc)

        return Connection
