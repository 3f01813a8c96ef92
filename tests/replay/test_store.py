import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from replay_episodes import assert_holds, assert_same, filled, make_episode

from faults import WatchedFile
from moto_pl.errors import SettingError
from moto_pl.replay import Episode, EpisodeStore
from moto_pl.replay import store as store_module


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    steps, size, actions = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    numbers = draw(st.integers(0, 3))
    vectors = hnp.arrays(np.float32, (steps + 1, numbers), elements=st.floats(-1e6, 1e6, width=32))
    extra = hnp.from_dtype
    kinds = st.sampled_from([np.dtype(t) for t in ("?", "u1", "<i4", "<i8", "<f4", "<f8")])
    names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
    extras = {}
    for name in draw(st.lists(names, max_size=3, unique=True)):
        dtype = draw(kinds)
        shape = (steps, *draw(st.lists(st.integers(0, 2), max_size=2)))
        elements = extra(dtype, allow_nan=False) if dtype.kind == "f" else extra(dtype)
        extras[name] = draw(hnp.arrays(dtype, shape, elements=elements))
    plain = st.text(max_size=8) | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
    return Episode(
        image=draw(hnp.arrays(np.uint8, (steps + 1, size, size, 3))),
        action=draw(hnp.arrays(np.float32, (steps, actions), elements=st.floats(-1, 1, width=32))),
        reward=draw(hnp.arrays(np.float32, steps, elements=st.floats(-100, 100, width=32))),
        terminated=draw(st.booleans()),
        truncated=draw(st.booleans()),
        success=draw(hnp.arrays(np.bool_, steps)),
        extras=extras,
        info=draw(st.dictionaries(st.text(max_size=5), plain, max_size=3)),
        vector=draw(vectors) if numbers else None,
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(episodes(), max_size=3))
def test_what_is_appended_is_read_again(given_episodes: list[Episode]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = EpisodeStore(folder)
        for index, episode in enumerate(given_episodes):
            assert store.append(episode) == index
        for opened in (store, EpisodeStore(folder)):
            assert len(opened) == len(given_episodes)
            for index, episode in enumerate(given_episodes):
                assert_same(opened[index], episode)
            opened.verify()
            assert opened.nbytes == sum(path.stat().st_size for path in Path(folder).iterdir())
            assert opened.num_rows == sum(episode.length + 1 for episode in given_episodes)
            assert opened.manifest() == store.manifest()


def test_the_file_is_what_the_layout_says(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    content = (tmp_path / "000000.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert (8 + size) % 64 == 0
    assert all(isinstance(value, str) for value in header.pop("__metadata__").values())
    ends = sorted(tuple(entry["data_offsets"]) for entry in header.values())
    assert ends[0][0] == 0 and ends[-1][1] == len(content) - 8 - size
    assert all(before[1] == after[0] for before, after in zip(ends, ends[1:], strict=False))
    begin, end = header["action"]["data_offsets"]
    action = np.frombuffer(content[8 + size + begin : 8 + size + end], np.float32).reshape(header["action"]["shape"])
    assert np.array_equal(action[1:], make_episode(0).action) and not action[0].any()


def test_views_are_read_only_and_survive_replacement(tmp_path: Path) -> None:
    store = filled(tmp_path, 2)
    old = store[1]
    with pytest.raises(ValueError, match="read-only"):
        old.image_rows[0] = 0
    store.restore(store.manifest()[:1])
    store.append(make_episode(7))
    assert_same(old, make_episode(1))
    assert_same(store[1], make_episode(7))


# Crashes: a child process does the append and dies at one of its file operations.


class Killer:
    """Counts file operations, and ends the process before, within or after the one numbered ``at``."""

    def __init__(self, at: int, when: str) -> None:
        self.at, self.when, self.count = at, when, 0

    def patch(self) -> None:
        for module, name in (
            (os, "open"),
            (os, "fsync"),
            (os, "replace"),
            (os, "close"),
            (os, "unlink"),
            (fcntl, "flock"),
        ):
            setattr(module, name, self.wrap(name, getattr(module, name)))
        opened: Callable[..., Any] = os.fdopen
        watched = partial(WatchedFile, wrap=partial(self.wrap, "write"))
        os.fdopen = lambda *args: watched(opened(*args))  # type: ignore[assignment]

    def wrap(self, name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            number, self.count = self.count, self.count + 1
            if number == self.at and self.when == "before":
                os._exit(9)
            if number == self.at and self.when == "within" and name == "write":
                operation(args[0][: len(args[0]) // 2])
                os._exit(9)
            result = operation(*args, **kwargs)
            if number == self.at:
                os._exit(9)
            return result

        return wrapped


def run_and_die(work: Callable[[], None], at: int, when: str) -> bool:
    """Runs ``work`` in a child that dies at a file operation; False when it had fewer operations."""
    child = os.fork()
    if child == 0:
        Killer(at, when).patch()
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork beside torch's threads: the child only writes files
@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_a_crash_at_any_file_operation_loses_nothing(tmp_path: Path, when: str) -> None:
    survived = set()
    for at in range(100):
        root = tmp_path / str(at)
        store = filled(root, 2)
        if not run_and_die(lambda store=store: store.append(make_episode(2)) and None, at, when):  # type: ignore[misc]
            break
        opened = EpisodeStore(root)
        survived.add(len(opened))
        assert_holds(opened, list(range(len(opened))))
        assert sorted(path.name for path in root.iterdir()) == [entry["file"] for entry in opened.manifest()]
        # The run goes on: the episode comes again, the next one after it.
        opened.restore(opened.manifest()[:2])
        opened.append(make_episode(12))
        opened.append(make_episode(13))
        assert_holds(EpisodeStore(root), [0, 1, 12, 13])
    else:
        raise AssertionError("the append never came to its end")
    assert at >= 10 and survived == {2, 3}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_a_crash_while_replacing_leaves_the_old_or_the_new(tmp_path: Path, when: str) -> None:
    found = set()
    for at in range(100):
        root = tmp_path / str(at)
        store = filled(root, 2)
        store.restore(store.manifest()[:1])
        if not run_and_die(lambda store=store: store.append(make_episode(5)) and None, at, when):  # type: ignore[misc]
            break
        opened = EpisodeStore(root)
        assert len(opened) == 2
        found.add(opened[1].info["seed"])
        assert_holds(opened, [0, int(opened[1].info["seed"])])
    assert found == {1, 5}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opening_leaves_a_living_writer_alone(tmp_path: Path) -> None:
    store = filled(tmp_path, 1)
    temporary = tmp_path / ".000001.safetensors.tmp"
    seen: list[bool] = []
    replace = os.replace

    def replace_beside_a_reader(source: Path, target: Path) -> None:
        EpisodeStore(tmp_path)
        seen.append(temporary.exists())
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace_beside_a_reader)
        store.append(make_episode(1))
    assert seen == [True]
    assert_holds(EpisodeStore(tmp_path), [0, 1])


def test_only_our_leftovers_are_removed(tmp_path: Path) -> None:
    filled(tmp_path, 1)
    for name in (".000001.safetensors.tmp", "notes.tmp", "000007.safetensors.bak"):
        (tmp_path / name).write_text("x")
    EpisodeStore(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "000000.safetensors",
        "notes.tmp",
        "000007.safetensors.bak",
    }


def test_a_gap_ends_the_list(tmp_path: Path) -> None:
    filled(tmp_path, 4)
    (tmp_path / "000002.safetensors").unlink()
    assert_holds(EpisodeStore(tmp_path), [0, 1])


# A full disk.


@pytest.mark.parametrize("operation", ["open", "write", "fsync"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, code: int) -> None:
    store = filled(tmp_path, 2)
    opened: Callable[..., Any] = os.fdopen

    def full(*args: Any, **kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    def full_file(*args: Any) -> Any:
        file = opened(*args)
        file.write(b"half of")
        return WatchedFile(file, lambda write: full)

    with monkeypatch.context() as patch:
        if operation == "write":
            patch.setattr(os, "fdopen", full_file)
        else:
            patch.setattr(os, operation, full)
        with pytest.raises(SettingError, match=r"000002\.safetensors: found a full disk \(.* free\)\. Free some space"):
            store.append(make_episode(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.safetensors", "000001.safetensors"]
    assert_holds(store, [0, 1])
    store.append(make_episode(3))
    assert_holds(EpisodeStore(tmp_path), [0, 1, 3])


def test_another_error_is_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, 1)

    def broken(*args: Any) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="broken"):
            store.append(make_episode(1))
    assert [path.name for path in tmp_path.iterdir()] == ["000000.safetensors"]


def test_the_limit_holds_before_anything_is_written(tmp_path: Path) -> None:
    size = filled(tmp_path / "measured", 1).nbytes
    store = EpisodeStore(tmp_path / "limited", max_bytes=2 * size + size // 2)
    store.append(make_episode(0))
    store.append(make_episode(1))
    with pytest.raises(SettingError, match="data.replay_limit_gb.*needed for episode 2"):
        store.append(make_episode(2))
    assert_holds(EpisodeStore(store.root), [0, 1])
    assert len(list(store.root.iterdir())) == 2
    with pytest.raises(SettingError, match="max_bytes"):
        EpisodeStore(tmp_path, max_bytes=0)


def test_describe_capacity(tmp_path: Path) -> None:
    store = filled(tmp_path, 2)
    line = store.describe_capacity(10, 6)
    assert str(tmp_path) in line and "10 expected" in line and "TOO SMALL" not in line and "\n" not in line
    assert "THE DISK IS TOO SMALL" in store.describe_capacity(10**15, 6)
    assert "THE LIMIT IS TOO SMALL" in EpisodeStore(tmp_path, store.nbytes).describe_capacity(10, 6)
    assert "117.2 MiB" in EpisodeStore(tmp_path / "empty").describe_capacity(100, 100)


def test_a_directory_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="file/replay"):
        EpisodeStore(tmp_path / "file" / "replay")


# Manifests, and several processes.


def test_restore_forgets_what_came_later(tmp_path: Path) -> None:
    store = filled(tmp_path, 2)
    manifest = json.loads(json.dumps(store.manifest()))
    store.append(make_episode(2))
    store.append(make_episode(3))
    resumed = EpisodeStore(tmp_path)
    assert len(resumed) == 4
    resumed.restore(manifest)
    assert_holds(resumed, [0, 1])
    # What follows replaces the forgotten, one by one.
    resumed.append(make_episode(12))
    assert_holds(resumed, [0, 1, 12])
    assert_holds(EpisodeStore(tmp_path), [0, 1, 12, 3])
    # And what is still on disk can be taken back.
    resumed.restore(manifest[:1])
    resumed.restore(manifest)
    assert_holds(resumed, [0, 1])


def test_restore_refuses_other_episodes(tmp_path: Path) -> None:
    store = filled(tmp_path, 3)
    manifest = store.manifest()
    store.restore(manifest[:1])
    store.append(make_episode(9))
    with pytest.raises(SettingError, match=r"000001\.safetensors.*checkpoint"):
        store.restore(manifest)
    assert_holds(store, [0, 9])
    (tmp_path / "000002.safetensors").unlink()
    with pytest.raises(SettingError, match=r"000002\.safetensors: found no such file"):
        store.restore([*store.manifest(), manifest[2]])
    with pytest.raises(SettingError, match=r"000000\.safetensors"):
        store.restore([{**manifest[0], "length": 6}])
    with pytest.raises(SettingError, match=r"000000\.safetensors"):
        store.restore([{**manifest[0], "file": "000001.safetensors"}])
    assert_holds(store, [0, 9])


def test_stored_episodes_do_not_change(tmp_path: Path) -> None:
    store = filled(tmp_path, 2)
    with pytest.raises(SettingError, match="index: found 1"):
        store.append(make_episode(5), 1)
    assert_holds(EpisodeStore(tmp_path), [0, 1])


def test_processes_that_share_a_directory(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    ranks = [EpisodeStore(tmp_path) for _ in range(2)]
    for store in ranks:
        store.restore(store.manifest()[:2])  # number 2 is a killed run's
    assert ranks[1].append(make_episode(13), 3) == 3
    assert_holds(ranks[1], [0, 1])
    assert ranks[0].append(make_episode(12), 2) == 2
    for store in ranks:
        store.refresh(4)
        assert_holds(store, [0, 1, 12, 13])
        store.refresh(4)
    with pytest.raises(SettingError, match=r"000004\.safetensors: found no such file"):
        ranks[0].refresh(5)
    assert_holds(ranks[0], [0, 1, 12, 13])


def test_mapped_episodes_keep_no_file_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    store = filled(tmp_path, 8)
    assert len(os.listdir("/proc/self/fd")) == before
    assert_holds(store, list(range(8)))


def test_no_more_files_are_mapped_than_a_process_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is mapped again, and is the same episode or an error."""
    monkeypatch.setattr(store_module, "_MAPPED", 3)

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(f"{tmp_path}/0")

    store = filled(tmp_path, 8)
    for again in (store, EpisodeStore(tmp_path)):
        assert mapped() <= 6  # of two stores, after the first round
        assert_holds(again, list(range(8)))
        assert again[-1].crc == again.known[7].crc == again[7].crc and len(list(again)) == 8
    again.restore(store.manifest())
    assert_holds(again, list(range(8)))
    del store
    assert mapped() <= 3
    first, last = (tmp_path / f"00000{number}.safetensors" for number in (0, 7))
    again[7], last.replace(first)
    with pytest.raises(SettingError, match="another episode than before"):
        again[0]
