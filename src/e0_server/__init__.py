"""Policies over a network: the websocket protocol that openpi's clients speak, safely.

It knows neither PyTorch nor LeRobot: what is served is anything that answers observations
(`served.ServedPolicy`). A robot's machine needs only `e0_server.client`, NumPy, `msgpack` and
`websockets`.
"""

TOKEN = "E0_SERVER_TOKEN"
"""The environment variable in which servers and clients of ours find the token."""

PROTOCOL = 1
"""The version of what servers and clients of ours tell each other; metadata holds it."""
