"""Files and directories that are whole or not there, also after a kill or a power cut."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

OWN_ENDINGS = (".log", ".json", ".lock", ".partial")  # what is put behind names, see `beside`
LONGEST_NAME = 100  # bytes; with an ending still far below every file system's 255


class FileNameError(ValueError):
    """A name that cannot be that of a file or directory."""


class DamagedFileError(ValueError):
    """A file that is not what it was written as."""


def file_name(name: str, what: str) -> str:
    """The name itself, once it is certain that as a path it is one step down and nobody else's.

    what: what is named, for the message. Raises FileNameError for anything but letters, digits and
    `_.,=+@-` or blanks between them, for names that begin with a dot, are too long, or end like a
    file that is kept beside what they name (`beside`).
    """
    if not re.fullmatch(r"\w([\w.,=+@ -]*[\w,=+@-])?", name) or len(name.encode()) > LONGEST_NAME:
        raise FileNameError(
            f"{what} {name!r} cannot name a file: take at most {LONGEST_NAME} letters, digits and "
            "_ - . , = + @ with a letter or digit first"
        )
    if name.endswith(OWN_ENDINGS):
        raise FileNameError(
            f"{what} {name!r} must not end in {' or '.join(OWN_ENDINGS)}: files that are kept "
            "beside others are called so"
        )
    return name


def beside(path: Path, ending: str) -> Path:
    """`lr_0.001` -> `lr_0.001.log`: the whole name is kept, also what follows a dot in it."""
    return path.with_name(path.name + ending)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; its directory is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file as `write_bytes` does."""
    write_bytes(path, text.encode())


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file: on the disk before this returns. A last line that a kill cut short
    stays a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        whole = file.read(1) in (b"", b"\n")
        file.write((b"" if whole else b"\n") + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises DamagedFileError, naming the file, if it is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedFileError(
            f"{path} is damaged ({error}): put a copy of it in its place, or move it away"
        ) from error


def place_directory(draft: Path, path: Path) -> None:
    """Rename a finished directory, after all that it holds is on the disk.

    Raises OSError if `path` is there and not an empty directory.
    """
    for folder, _, names in os.walk(draft):
        for name in names:
            _sync(Path(folder, name))
        _sync(Path(folder))
    draft.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Have the kernel put a file, or the names in a directory, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
