"""Files that are whole or not there, and names that may become paths."""

import json
import os
from pathlib import Path

import pytest

from e0_system.files import (
    DamagedFileError,
    FileNameError,
    append_line,
    beside,
    file_name,
    place_directory,
    read_json,
    write_bytes,
)


@pytest.mark.parametrize("name", ["a", "lr_0.001", "e0, told", "π0-1", "K=10", "a+b@3", "_x"])
def test_ordinary_names_are_names(name: str) -> None:
    assert file_name(name, "the label") == name


ELSEWHERE = ("", ".", "..", "../../victim", "a/b", "/etc", ".hidden", "a\\b", "a\nb", "a\0")
ODD = (" a", "a ", "a.", "-rf", "~", "x" * 101, "a.log", "a.json", "a.lock", "a.partial")


@pytest.mark.parametrize("name", ELSEWHERE + ODD)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(FileNameError, match="the label"):
        file_name(name, "the label")


def test_what_stands_beside_keeps_the_whole_name() -> None:
    assert beside(Path("a/lr_0.001"), ".log") == Path("a/lr_0.001.log")


def test_a_failed_write_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_bytes(path, b"old")
    with pytest.raises(TypeError):
        write_bytes(path, "text")  # pyright: ignore[reportArgumentType]
    assert path.read_bytes() == b"old"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this order, whatever a power cut leaves: contents, name, the directory that holds it."""
    done = []
    sync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    def renamed(draft: Path, path: Path) -> None:
        done.append(path)
        rename(draft, path)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_bytes(tmp_path / "file", b"new")
    draft, name, directory = done
    assert (draft.parent, name, directory) == (tmp_path, tmp_path / "file", tmp_path)
    assert draft != name
    done.clear()
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "part").touch()
    place_directory(tmp_path / "draft", tmp_path / "whole")
    assert done == [tmp_path / "draft/part", tmp_path / "draft", tmp_path]
    append_line(tmp_path / "log", "line")
    assert done[-1] == tmp_path / "log"


def test_a_cut_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log"
    append_line(path, "one")
    assert path.read_text() == "one\n"
    path.write_text("one\ntw")
    append_line(path, "three")
    append_line(path, "four")
    assert path.read_text() == "one\ntw\nthree\nfour\n"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1] 2"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "phases.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"{path} is damaged .* move it away"):
        read_json(path)
    path.write_text(json.dumps({"a": 1}))
    assert read_json(path) == {"a": 1}
