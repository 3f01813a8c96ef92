"""Files are whole or not there, and a directory has one holder, who loses it with his life."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from moto_pl.errors import SettingError
from moto_pl.files import (
    LOCK,
    bytes_text,
    check_can_write,
    is_held,
    lock_run,
    remove_leftover,
    temporary_path,
    whole,
    write_whole,
)


def test_a_file_stands_there_once_it_is_whole(tmp_path: Path) -> None:
    path, before = tmp_path / "file", tmp_path / "before"
    write_whole(path, b"old")
    with whole(path, before) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old" and not before.exists()
    assert path.read_bytes() == b"new" and before.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [before, path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ValueError("a writer's")])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path, before = tmp_path / "file", tmp_path / "before"
    write_whole(path, b"old")
    with pytest.raises(type(error)), whole(path, before) as file:
        file.write(bytes(100_000))
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """The system does not: a write knows a number alone."""
    with pytest.raises(OSError) as raised, whole(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert raised.value.filename == str(tmp_path / "file")


def test_all_is_on_the_disk_before_it_has_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = tmp_path / "file", []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        calls.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        calls.append(("replace", str(source), str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    with whole(path) as file:
        file.write(b"five!")
    temporary = str(temporary_path(path))
    assert calls[:2] == [("fsync", temporary, 5), ("replace", temporary, str(path))]
    assert [call[:2] for call in calls[2:]] == [("fsync", str(tmp_path))]


def test_what_a_killed_writer_left_is_overwritten_and_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    temporary_path(path).write_bytes(b"much longer than what comes")
    write_whole(path, b"short")
    assert path.read_bytes() == b"short"
    temporary_path(path).write_bytes(b"left")
    remove_leftover(temporary_path(path))
    assert list(tmp_path.iterdir()) == [path]


def test_a_living_writers_file_is_no_leftover(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole(path) as file:
        file.write(b"mine")
        assert is_held(temporary_path(path))
        remove_leftover(temporary_path(path))
    assert path.read_bytes() == b"mine" and not is_held(path)


def test_two_writers_of_one_file_take_turns(tmp_path: Path) -> None:
    """Neither writes into the other's; who comes last stays."""
    path, inside, second = tmp_path / "file", threading.Event(), bytes(range(256)) * 4000

    def other() -> None:
        inside.wait(10)
        write_whole(path, second)

    thread = threading.Thread(target=other)
    thread.start()
    with whole(path) as file:
        file.write(b"first")
        inside.set()
        time.sleep(0.2)
        assert not path.exists()
        file.write(b" of two")
    thread.join(10)
    assert path.read_bytes() == second and list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_locks_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    write_whole(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"
    # What is being written and what was left cannot be told apart there, so nothing is removed.
    temporary_path(tmp_path / "file").write_bytes(b"x")
    remove_leftover(temporary_path(tmp_path / "file"))
    assert temporary_path(tmp_path / "file").exists() and is_held(tmp_path / "file")
    with pytest.raises(SettingError, match=r"cannot be locked .*No locks available"), lock_run(tmp_path):
        pass


def test_a_directory_is_free_when_its_holder_is_killed(tmp_path: Path) -> None:
    """Also where a child of the killed process lives on."""
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom moto_pl.files import lock_run\n"
        "with lock_run(Path(sys.argv[1])):\n"
        "    child = os.fork()\n    if child == 0: time.sleep(60)\n"
        "    print(child, flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        assert is_held(tmp_path / LOCK)
        with pytest.raises(SettingError, match="another process is training.*Wait for it"), lock_run(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not is_held(tmp_path / LOCK)
        with lock_run(tmp_path):
            assert is_held(tmp_path / LOCK)
        assert not is_held(tmp_path / LOCK)
    finally:
        process.kill()
        os.kill(child, signal.SIGKILL)


def test_sizes_are_read_by_people() -> None:
    found = [bytes_text(size) for size in (0, 1023, 1024, 1536, 2**20 - 1, 5 * 2**30, 3000 * 2**40)]
    assert found == ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1024.0 KiB", "5.0 GiB", "3000.0 TiB"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    # Permissions do not tell: who is root may write to /proc, and can make nothing there.
    for path in (Path("/proc"), Path("/proc/a/b"), tmp_path / "file", tmp_path / "file/a/b"):
        with pytest.raises(SettingError, match=rf"^--out: found {path}, where nothing can be written"):
            check_can_write("--out", path)
    with pytest.raises(SettingError, match="nothing can be written"):
        check_can_write("--out", Path("/proc/film.mp4"), file=True)


def test_where_something_can_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, tmp_path / "a/b", Path("a/b"), Path()):
        check_can_write("--out", path)
    for path in (tmp_path / "file", Path("file"), Path("a/file")):  # it is replaced
        check_can_write("--out", path, file=True)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
