"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; its directory is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Write JSON data as `write_text` does, laid out by `json_lines`."""
    write_text(path, json_lines(data) + "\n")


def json_lines(data: Any, indent: str = "") -> str:
    """JSON with a row a line, so that a change of results can be read: objects spread over lines
    unless they hold numbers and texts alone, lists if they hold more than these, and what stands in
    a list stays on its line. What JSON does not know (a path) becomes its text."""
    inner = indent + " "
    if isinstance(data, dict) and _holds_more(data.values()):
        items = [f"{json.dumps(str(k))}: {json_lines(v, inner)}" for k, v in data.items()]
    elif isinstance(data, list | tuple) and _holds_more(data):
        items = [json.dumps(item, default=str) for item in data]
    else:
        return json.dumps(data, default=str)
    opening, closing = "{}" if isinstance(data, dict) else "[]"
    return opening + ",".join(f"\n{inner}{item}" for item in items) + f"\n{indent}{closing}"


def _holds_more(values: Any) -> bool:
    """Whether there are objects or lists among the values."""
    return any(isinstance(value, dict | list | tuple) for value in values)
