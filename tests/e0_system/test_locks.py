"""One process at a time owns an output directory; the next waits, and says for whom."""

import os
import threading
import time
from pathlib import Path

import pytest

from e0_system.locks import DirectoryInUseError, own_directory


def test_the_second_one_is_told_who_holds_it(tmp_path: Path) -> None:
    with own_directory(tmp_path / "out"):
        with (
            pytest.raises(DirectoryInUseError, match=rf"process {os.getpid()} on .*/out; wait"),
            own_directory(tmp_path / "out", patience=0.0),
        ):
            pass
        assert (tmp_path / "out" / ".lock").exists()
    assert not list(tmp_path.iterdir())


def test_the_second_one_waits_for_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a kill: its holder is on its way out, and a directory it made goes with it."""
    (held, leave) = threading.Event(), threading.Event()

    def hold() -> None:
        with own_directory(tmp_path / "out"):
            held.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    threading.Timer(0.2, leave.set).start()
    with own_directory(tmp_path / "out", patience=10.0):
        assert (tmp_path / "out" / ".lock").exists()
    thread.join()
    told = capsys.readouterr().err
    assert told.count("Waiting for process") == 1 and str(tmp_path / "out") in told


def test_a_directory_that_goes_while_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mkdir` finds it there, and, looking what it is, no more."""
    whole, calls = Path.mkdir, []

    def racing(self: Path, *arguments: object, **options: object) -> None:
        calls.append(self)
        if len(calls) == 1:
            raise FileExistsError(17, "File exists", str(self))
        whole(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", racing)
    with own_directory(tmp_path / "out"):
        assert len(calls) == 2 and (tmp_path / "out").is_dir()
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError), own_directory(tmp_path / "file"):
        pass


def test_a_lock_that_a_kill_left_is_taken_at_once(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 1 on elsewhere")
    began = time.monotonic()
    with own_directory(tmp_path):
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert time.monotonic() - began < 1


def test_never_two_at_once(tmp_path: Path) -> None:
    """Taking and leaving in turn, with the file and its directory going and coming back."""
    inside, most = [], []

    def work() -> None:
        for _ in range(20):
            with own_directory(tmp_path / "out", patience=60.0):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 60


def test_what_was_there_before_stays(tmp_path: Path) -> None:
    with own_directory(tmp_path):
        pass
    assert tmp_path.is_dir()
    with own_directory(tmp_path / "a"):
        (tmp_path / "a" / "result").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["result"]
