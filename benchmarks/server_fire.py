"""What our policy server costs, beside openpi's, and what it stands.

    python benchmarks/server_fire.py --out benchmarks/results/server-2-cpu-cores.json \\
        --openpi PYTHON OPENPI

Latency: round trips on loopback with two pictures of 224 px and a policy that costs nothing, in
process, by our server, and by openpi's own (PYTHON has `openpi-client`, OPENPI is a checkout), in
turn, five times each. Fire: 100,000 hostile messages of 64 clients at once (broken, nested, huge or
promising more than comes, arrays that are none, clients that never read, dribble, come and go, or
break websockets' rules), while a good client goes on asking; a policy of 10 ms a chunk.

Results: {"latency": rows, "fire": numbers, "machine": text}. To reach: 2 ms of overhead (median);
the good client's p99 under fire below twice its undisturbed one; memory within 10 %.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

from e0_bench.files import write_json
from e0_bench.serving.measuring import (
    Latency,
    fake_policy_command,
    in_process,
    measure,
    message_bytes,
    server_process,
    under_fire,
)
from e0_server.client import PolicyClient

ROUNDS, TRIPS = 5, 400
OPENPI = """
import logging, socket, sys
sys.path.insert(0, sys.argv[1] + "/src/openpi/serving")
import numpy as np
from websocket_policy_server import WebsocketPolicyServer

class Fixed:
    def infer(self, observation):
        return {"actions": np.full((50, 7), observation["number"], np.float32)}

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = WebsocketPolicyServer(Fixed(), "127.0.0.1", port, {})
import threading, time
def tell():
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                print(port, flush=True)
                return
        time.sleep(0.05)
threading.Thread(target=tell, daemon=True).start()
logging.disable(logging.CRITICAL)
server.serve_forever()
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--openpi", nargs=2, metavar=("PYTHON", "OPENPI"))
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": platform.platform(), "request_bytes": message_bytes()}
    results["latency"] = latencies(arguments.openpi)
    for row in results["latency"]:
        print(row)
    results["fire"] = under_fire(
        0.01, arguments.messages, arguments.clients, arguments.seed, undisturbed=1000
    )
    print(results["fire"])
    write_json(arguments.out, results)


def latencies(openpi: tuple[str, str] | None) -> list[dict[str, Any]]:
    """Rows of each way, with the overhead over calling the policy in process."""
    commands = {"e0": fake_policy_command(0.0)}
    if openpi is not None:
        commands["openpi"] = [openpi[0], "-c", OPENPI, openpi[1]]
    trips: dict[str, list[float]] = {"in process": [], **{name: [] for name in commands}}
    for _ in range(ROUNDS):
        trips["in process"] += in_process(0.0, TRIPS)
        for name, command in commands.items():
            with (
                server_process(command) as (_, port),
                PolicyClient(f"ws://127.0.0.1:{port}", timeout=20.0) as client,
            ):
                measure(client, 50)
                trips[name] += measure(client, TRIPS)
    alone = Latency.of(trips["in process"])
    return [
        {
            "way": way,
            **vars(Latency.of(times)),
            "overhead_ms": Latency.of(times).median - alone.median,
        }
        for way, times in trips.items()
    ]


if __name__ == "__main__":
    main()
