"""What was asked and answered, for finding out later why the robot did that.

DIR/requests.jsonl has a line for every answered request; its pictures lie beside it as PNG files,
which the line names. Writing happens in a thread of its own and never delays an answer: what comes
faster than it can be written is left out, and the log says how much.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

MAX_BYTES = 4 * 2**30
MAX_AHEAD = 16  # requests that wait to be written


class Recorder:
    """Writes requests to a directory until it holds `max_bytes`.

    Raises FileExistsError if the directory holds a recording already.
    """

    def __init__(self, directory: Path, max_bytes: int = MAX_BYTES) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._left, self._count = directory, max_bytes, 0
        self._left_out = 0
        self._path = directory / "requests.jsonl"
        if self._path.exists():
            raise FileExistsError(f"{directory} holds a recording already; choose another")
        self._file = self._path.open("x")
        self._queue: queue.Queue[tuple[Any, ...] | None] = queue.Queue(MAX_AHEAD)
        self._thread = threading.Thread(target=self._write_all, name="recorder", daemon=True)
        self._thread.start()

    def add(self, client: str, observation: Mapping[str, Any], reply: Mapping[str, Any]) -> None:
        """Have a request written; returns at once."""
        try:
            self._queue.put_nowait((time.time(), client, observation, reply))
        except queue.Full:
            self._left_out += 1

    def close(self) -> None:
        """Write what is left, and end. A recording of nothing leaves no file."""
        self._queue.put(None)
        self._thread.join()
        self._file.close()
        if self._count == 0:
            self._path.unlink()
        if self._left_out:
            logger.warning("the recording lacks %d requests", self._left_out)

    def _write_all(self) -> None:
        full = False
        while (item := self._queue.get()) is not None:
            if full:
                self._left_out += 1
                continue
            try:
                self._write(*item)
            except OSError as error:
                full = True
                logger.error("the recording ends here: %s", error)
            if self._left <= 0:
                full = True
                logger.warning("the recording is full and ends here")

    def _write(
        self, when: float, client: str, observation: Mapping[str, Any], reply: Mapping[str, Any]
    ) -> None:
        row = {
            "time": when,
            "client": client,
            "observation": self._plain(observation),
            "reply": self._plain(reply),
        }
        line = json.dumps(row) + "\n"
        self._file.write(line)
        self._file.flush()
        self._left -= len(line)
        self._count += 1

    def _plain(self, values: Any, place: str = "") -> Any:
        """JSON data; pictures become files, which their names stand for."""
        if isinstance(values, Mapping):
            return {key: self._plain(value, f"{place}-{key}") for key, value in values.items()}
        if isinstance(values, np.ndarray) and values.dtype == np.uint8 and values.ndim == 3:
            return self._picture(values, place)
        if isinstance(values, np.ndarray | np.generic):
            return values.tolist()
        if isinstance(values, list):
            return [self._plain(value, place) for value in values]
        return values.hex() if isinstance(values, bytes) else values

    def _picture(self, picture: np.ndarray, place: str) -> str:
        from PIL import Image

        if picture.shape[0] == 3:
            picture = picture.transpose(1, 2, 0)
        safe = "".join(c if c.isalnum() or c == "_" else "-" for c in place)[:80]
        name = f"{self._count:06d}{safe}.png"
        Image.fromarray(picture).save(self._directory / name, compress_level=1)
        self._left -= (self._directory / name).stat().st_size
        return name
