"""The index of a directory's files spares looking at them, and decides nothing."""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_episodes import assert_same, make_episode

from moto_pl.errors import SettingError
from moto_pl.replay import EpisodeStore, episode_file, index
from moto_pl.replay.episode_file import look_at


@pytest.fixture(autouse=True)
def always_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_LEAST", 0)
    monkeypatch.setattr(index, "_SHARE", 0.0)


@pytest.fixture
def headers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the files whose headers are taken apart from here on."""
    found: list[int] = []
    parse = episode_file._header

    def watched(file: int, size: int, start: bytes) -> object:
        found.append(size)
        return parse(file, size, start)

    monkeypatch.setattr(episode_file, "_header", watched)
    return found


def filled(root: Path, count: int) -> EpisodeStore:
    store = EpisodeStore(root)
    for seed in range(count):
        store.append(make_episode(seed, steps=2))
    return store


def path_of(root: Path, number: int) -> Path:
    return root / f"{number:06d}.safetensors"


def test_known_files_are_not_looked_at_again(tmp_path: Path, headers: list[int]) -> None:
    manifest = filled(tmp_path, 5).manifest()
    headers.clear()
    store = EpisodeStore(tmp_path)
    store.restore(manifest[:2])
    store.restore(manifest)
    assert store.manifest() == manifest and headers == []
    for number in range(5):
        assert_same(store[number], make_episode(number, steps=2))
    assert len(headers) == 5
    # What is new, and nothing else, is looked at.
    headers.clear()
    os.replace(path_of(tmp_path, 1), path_of(tmp_path, 5))
    shutil.copyfile(path_of(tmp_path, 0), path_of(tmp_path, 1))
    assert len(EpisodeStore(tmp_path)) == 6 and len(headers) == 2


def test_a_restore_reads_every_byte_all_the_same(tmp_path: Path) -> None:
    manifest = filled(tmp_path, 3).manifest()
    path = path_of(tmp_path, 1)
    whole, status = path.read_bytes(), path.stat()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in (0, 9, header - 1, header, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with suppress(SettingError):  # a header may be read as it is opened
            store = EpisodeStore(tmp_path)
            with pytest.raises(SettingError, match="000001"):
                store.restore(manifest)
    path.write_bytes(whole)
    EpisodeStore(tmp_path).restore(manifest)


def test_nothing_is_written_for_a_few_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_LEAST", 3)
    filled(tmp_path, 3)
    assert not (tmp_path / index.NAME).exists()
    filled(tmp_path / "more", 4)
    assert (tmp_path / "more" / index.NAME).exists()


def test_an_index_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / index.NAME).mkdir()
    (tmp_path / index.NAME / "file").write_text("")
    assert len(filled(tmp_path, 3)) == len(EpisodeStore(tmp_path)) == 3


def test_a_forged_index_is_noticed_when_the_episode_is_drawn(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    forged = index.Index(tmp_path)
    facts = forged.known(1)
    assert facts is not None
    forged.note(1, facts._replace(num_rows=10**6))
    forged.keep()
    with pytest.raises(SettingError, match=r"000001\.safetensors: found another episode than before"):
        EpisodeStore(tmp_path)[1]


def test_a_damaged_index_is_none(tmp_path: Path, headers: list[int]) -> None:
    manifest = filled(tmp_path, 2).manifest()
    content = (tmp_path / index.NAME).read_bytes()
    for place in range(len(content)):
        (tmp_path / index.NAME).write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        headers.clear()
        assert EpisodeStore(tmp_path).manifest() == manifest and len(headers) == 2, place


# Whatever becomes of files and index: the store is what it would be without one.


def truth(root: Path) -> list[int] | None:
    """Checksums of the episodes that the files are; None where one is damaged."""
    found: list[int] = []
    with suppress(SettingError):
        while path_of(root, len(found)).exists():
            found.append(look_at(path_of(root, len(found))).crc)
        return found
    return None


def swap(root: Path, seed: int, count: int) -> None:
    one, other = path_of(root, seed % count), path_of(root, (seed + 1) % count)
    if one != other:
        os.replace(one, root / "spare")
        os.replace(other, one)
        os.replace(root / "spare", other)


def replace(root: Path, seed: int, count: int) -> None:
    """By another episode of the same size, as a resumed run does."""
    store = EpisodeStore(root)
    store.restore(store.manifest()[: seed % (count + 1)])
    store.append(make_episode(1000 + seed, steps=2))


def damage(root: Path, seed: int, count: int) -> None:
    """A bit within a file, whose time of change is put back."""
    path = path_of(root, seed % count)
    content, status = bytearray(path.read_bytes()), path.stat()
    content[seed * 7919 % len(content)] ^= 1 << seed % 8
    with open(path, "r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def damage_index(root: Path, seed: int, count: int) -> None:
    content = bytearray((root / index.NAME).read_bytes())
    content[seed * 104729 % len(content)] ^= 1 << seed % 8
    (root / index.NAME).write_bytes(content)


def cut_index(root: Path, seed: int, count: int) -> None:
    os.truncate(root / index.NAME, seed * 104729 % (root / index.NAME).stat().st_size)


def copy(root: Path, seed: int, count: int) -> None:
    """As a backup is put back: other files with the same names, sizes and times."""
    shutil.copytree(root, root.with_name("copy"))
    shutil.rmtree(root)
    os.replace(root.with_name("copy"), root)


CHANGES: list[Callable[[Path, int, int], object]] = [
    swap,
    replace,
    damage,
    damage_index,
    cut_index,
    copy,
    lambda root, seed, count: EpisodeStore(root).append(make_episode(seed, steps=2)),
    lambda root, seed, count: path_of(root, seed % count).unlink(),
    lambda root, seed, count: path_of(root, count - 1).unlink(),
    lambda root, seed, count: (root / index.NAME).unlink(),
    lambda root, seed, count: shutil.copyfile(root / index.NAME, root / "old"),
    lambda root, seed, count: shutil.copyfile(root / "old", root / index.NAME),
]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 99)), min_size=1, max_size=6))
def test_the_files_alone_decide(changes: list[tuple[Callable[[Path, int, int], object], int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("moto_pl.files.os.fsync", lambda _: None)  # nothing is cut here
        root = Path(folder) / "replay"
        filled(root, 3)
        for change, seed in changes:
            with suppress(FileNotFoundError, SettingError):  # nothing left to change, or damaged before
                change(root, seed, max(1, len(truth(root) or [0])))
            wanted = truth(root)
            if wanted is None:
                with pytest.raises(SettingError, match=r"found a damaged file"):
                    EpisodeStore(root)
            else:
                store = EpisodeStore(root)
                assert [entry["crc32"] for entry in store.manifest()] == wanted
                assert [store[number].crc for number in range(len(store))] == wanted
