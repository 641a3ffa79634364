"""Results files: JSON with a row a line, whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from e0_system.files import read_json, write_bytes, write_text

__all__ = ["json_lines", "read_json", "write_bytes", "write_json", "write_text"]


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
