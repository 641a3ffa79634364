"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all; its directory is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(text)
    os.replace(draft, path)


def write_json(path: Path, data: Any) -> None:
    """Write JSON data as `write_text` does; what JSON does not know (a path) becomes its text."""
    write_text(path, json.dumps(data, indent=1, default=str))
